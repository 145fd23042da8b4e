#!/usr/bin/env bash
# All checks, or some of the tests, in a virtual environment of their own.
#
#   bash launch/test.sh                      lint, format, types and all tests
#   bash launch/test.sh tests/tuners -k lion the tests that these arguments of pytest select, no more
#   bash launch/test.sh --changed [-x ...]   lint, format, and the tests that a change can touch
#
# PYTHON           the Python that makes the environment (default python3; 3.11 or newer)
# JAX_PROMPT_VENV  where the environment lies (default .venv-test); kept, and used again as long as
#                  pyproject.toml and the script that fills it are the same
# JAX_PROMPT_BASE  what --changed compares with (default origin/main where there is one, else main)
# JAX_PROMPT_REFERENCES=no   leaves out torch, timm and transformers; their tests skip
# CI=true          the torch references must install; otherwise their tests skip, with the reason
set -eu
cd "$(dirname "$0")/.."

venv="${JAX_PROMPT_VENV:-.venv-test}"
say() { printf '== %s\n' "$*"; }

bash launch/test_env.sh "$venv"
bin="$(cd "$venv/bin" && pwd)"
# Huge pages save page faults where the system gives them (Linux); elsewhere nobody reads this.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

# Temporary files lie in memory where there is room: a disk may take half a minute to forget them.
# They go when all has passed; otherwise those of the tests that failed stay.
if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ] \
    && [ "$(df -Pk /dev/shm | awk 'NR == 2 { print $4 }')" -gt 4000000 ]; then
  TMPDIR="$(mktemp -d /dev/shm/jax_prompt.XXXXXX)"
  export TMPDIR
  trap '[ $? = 0 ] && rm -rf "$TMPDIR" || say "files of the failed tests: $TMPDIR"' EXIT
fi

lint() {
  say 'ruff check';  "$bin/ruff" check -q .
  say 'ruff format'; "$bin/ruff" format --check -q .
}
# A file's tests stay in one process: they share compiled programs. The order of files is that of
# tests/conftest.py, which lets the slow ones start first.
tests() {
  say "pytest $*"
  "$bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q "$@"
}

case "${1:-}" in
  '')
    lint
    say 'mypy, beside the first tests'
    "$bin/mypy" &
    types=$!
    failed=0
    tests || failed=$?
    wait "$types" || { say 'mypy found errors, see above'; failed=1; }
    exit "$failed" ;;
  --changed)
    shift
    lint
    selected="$("$bin/python" tests/changed.py ${JAX_PROMPT_BASE:+"$JAX_PROMPT_BASE"})"
    # shellcheck disable=SC2086  # one word a file
    tests $selected "$@" ;;
  *) tests "$@" ;;
esac
