#!/usr/bin/env bash
# Makes the virtual environment of the tests, or leaves it as it is where nothing has changed.
#
#   bash launch/test_env.sh FOLDER
#
# The variables are those of launch/test.sh, which calls this.
set -eu
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
venv="$1"
torch_index='https://download.pytorch.org/whl/cpu'
log="$venv/install.log"

say() { printf '== %s\n' "$*"; }

# pip, heard only when it fails.
install() { "$venv/bin/python" -m pip install -q "$@" >"$log" 2>&1; }
must_install() { install "$@" || { cat "$log" >&2; exit 1; }; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "$python is $("$python" --version 2>&1); Python 3.11 or newer is needed: set PYTHON" >&2
  exit 1
}

# The converters are checked against timm and transformers on CPU-only torch: a wheel whose version
# says +cpu (from pip's own sources, else from torch's index), else what is there. torchvision's
# and timm's own needs would bring the CUDA build back, so they go in without.
install_references() {
  install 'torch==2.13.0+cpu' \
    || install --extra-index-url "$torch_index" 'torch==2.13.0+cpu' \
    || install 'torch==2.13.0' || return 1
  install --no-deps 'timm==1.0.31' 'torchvision==0.28.0' || return 1
  install 'transformers>=5.23,<6' huggingface_hub pyyaml || return 1
}

stamp="$( { "$python" --version; pwd; cat pyproject.toml launch/test_env.sh; } | cksum)"
if [ ! -x "$venv/bin/python" ] || [ "$(cat "$venv/stamp" 2>/dev/null)" != "$stamp" ]; then
  say "installing into $venv (minutes, once)"
  "$python" -m venv --clear "$venv"
  must_install --upgrade pip
  must_install -e './[test]'
  if [ "${JAX_PROMPT_REFERENCES:-yes}" = no ]; then
    touch "$venv/no-references"
  elif install_references; then
    rm -f "$venv/no-references"
  else
    cat "$log" >&2
    touch "$venv/no-references"
  fi
  echo "$stamp" >"$venv/stamp"
fi
if [ -e "$venv/no-references" ]; then
  say "torch 2.13.0 (CPU), timm or transformers are not installed in $venv:"
  say 'the comparisons with them are skipped; remove that folder to try again'
  if [ "${CI:-}" = true ] && [ "${JAX_PROMPT_REFERENCES:-yes}" = yes ]; then exit 1; fi
fi
