#!/usr/bin/env bash
# Tunes the packaged vit_micro to two tasks by five methods and shows them side by side: handwritten
# digits, and the direction of stripes in rendered scenes.
#
#   bash launch/quickstart.sh [runs folder, default runs/quickstart]
#
# PYTHON           the Python that makes the environment (default python3; 3.11 or newer)
# JAX_PROMPT_VENV  where the environment lies (default .venv)
# Finished runs are kept: run again to see their table again. Only the installation uses the network.
set -eu
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
venv="${JAX_PROMPT_VENV:-.venv}"
runs="${1:-runs/quickstart}"
log="$venv/install.log"

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "$python is $("$python" --version 2>&1); Python 3.11 or newer is needed: set PYTHON" >&2
  exit 1
}

stamp="$( { "$python" --version; pwd; cat pyproject.toml; } | cksum)"
if [ ! -x "$venv/bin/python" ] || [ "$(cat "$venv/stamp" 2>/dev/null)" != "$stamp" ]; then
  echo "== installing into $venv (minutes, once)"
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install -q -e './[quickstart]' >"$log" 2>&1 || {
    cat "$log" >&2
    exit 1
  }
  echo "$stamp" >"$venv/stamp"
fi

bin="$(cd "$venv/bin" && pwd)"
# Huge pages save page faults where the system gives them (Linux); elsewhere nobody reads this.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

# A signal to this script ends what it started: each task is a process group of its own (set -m).
groups=()
stop() {
  trap - INT TERM HUP
  for group in ${groups[@]+"${groups[@]}"}; do
    kill -TERM -- "-$group" 2>/dev/null || true
  done
  exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM
trap 'stop 129' HUP

# Starting and compiling use one core: the tasks run side by side, each on a core of its own where
# the system can say so (Linux), their methods one after the other.
cores=($("$bin/python" -c 'import os
print(*sorted(getattr(os, "sched_getaffinity", lambda _: [])(0)))'))
on_core() {
  if [ "${#cores[@]}" -ge 2 ] && command -v taskset >/dev/null; then
    taskset -c "${cores[$1]}" "${@:2}"
  else
    "${@:2}"
  fi
}
tune() {
  for method in "${methods[@]}"; do
    run="$runs/$1/$method"
    config="configs/quickstart.py:task=$1,method=$method"
    on_core "$2" "$bin/python" launch/train.py --config "$config" --workdir "$run" >"$runs/$1-$method.log" 2>&1 || {
      cat "$runs/$1-$method.log" >&2
      exit 1
    }
    echo "== $1: $(tail -n 1 "$runs/$1-$method.log")"
  done
}

methods=(linear vpt_deep spt_deep dvpt_deep lion)
mkdir -p "$runs"
set -m
tune digits 0 &
first=$!
groups+=("$first")
tune orientation 1 &
second=$!
groups+=("$second")
set +m
failed=0
wait "$first" || failed=1
wait "$second" || failed=1
[ "$failed" = 0 ] || exit 1
echo
exec "$bin/python" launch/plot_curves.py "${methods[@]/#/$runs/digits/}" \
  "${methods[@]/#/$runs/orientation/}" --out "$runs/curves.png"
