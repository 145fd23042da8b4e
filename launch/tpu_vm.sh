#!/usr/bin/env bash
# One run on a Cloud TPU slice: makes it, installs on all its workers, trains on all, removes it.
#
#   TPU=mine ZONE=us-central1-a TYPE=v5litepod-16 bash launch/tpu_vm.sh create
#   TPU=mine ZONE=us-central1-a bash launch/tpu_vm.sh install
#   TPU=mine ZONE=us-central1-a bash launch/tpu_vm.sh copy FILE_OR_FOLDER    # weights, data: to all
#   TPU=mine ZONE=us-central1-a bash launch/tpu_vm.sh train runs/pets \
#       configs/tune.py:method=spt_deep,backbone=vit_h14_224 --config.data=data/pets \
#       --config.weights=FILE --config.batch_size=256
#   TPU=mine ZONE=us-central1-a bash launch/tpu_vm.sh fetch runs/pets        # the run directory
#   TPU=mine ZONE=us-central1-a bash launch/tpu_vm.sh delete
#
# A worker is a machine with some of the slice's chips; one process runs on each, and the TPU's own
# metadata tell JAX where the others are. Paths given to train are relative to the folder jax_prompt
# in a worker's home. Each worker needs the data and the weights; worker 0, which is process 0,
# writes the run directory on its own disk. Run `train` again after a loss: it goes on from the last
# checkpoint. `train` ends when this shell does; start it in tmux or with nohup.
#
# TPU      name of the TPU; ZONE its zone; PROJECT its project (default: gcloud's)
# TYPE     accelerator type, to create; VERSION software version (default v2-alpha-tpuv5-lite)
# SPOT=1   create a spot TPU, which may be taken away at any time
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  sed -n '2,/^set/{/^#/{s/^# \{0,1\}//;p;};}' "launch/tpu_vm.sh" >&2
  exit 2
}

[ "$#" -ge 1 ] || usage
: "${TPU:?set TPU to the name of the TPU}" "${ZONE:?set ZONE to its zone}"
where=("--zone=$ZONE")
[ -z "${PROJECT:-}" ] || where+=("--project=$PROJECT")
tpu=(gcloud compute tpus tpu-vm)

on_all() { # a command line, run by the shell of every worker
  "${tpu[@]}" ssh "$TPU" "${where[@]}" --worker=all --command="$1"
}

command="$1"
shift
case "$command" in
  create)
    : "${TYPE:?set TYPE to an accelerator type, such as v5litepod-16}"
    options=("--accelerator-type=$TYPE" "--version=${VERSION:-v2-alpha-tpuv5-lite}")
    [ -z "${SPOT:-}" ] || options+=(--spot)
    "${tpu[@]}" create "$TPU" "${where[@]}" "${options[@]}"
    ;;
  install)
    # The files under version control, as they are here.
    archive="$(mktemp -d)/jax_prompt.tar.gz"
    git ls-files -z | tar --null -T - -czf "$archive"
    "${tpu[@]}" scp "$archive" "$TPU:jax_prompt.tar.gz" "${where[@]}" --worker=all
    rm -r "$(dirname "$archive")"
    on_all 'set -e
      mkdir -p jax_prompt && tar -xzf jax_prompt.tar.gz -C jax_prompt && cd jax_prompt
      if [ ! -x .venv/bin/python ]; then
        # Images with an older Python get a newer one from uv.
        if python3 -c "import sys; sys.exit(sys.version_info < (3, 11))"; then
          python3 -m venv .venv
        else
          python3 -m pip install -q --user uv && python3 -m uv venv -q --seed --python 3.12 .venv
        fi
      fi
      .venv/bin/pip install -q -e ".[tpu]"
      .venv/bin/python -c "import jax; print(jax.__version__)"'
    ;;
  copy)
    [ "$#" -eq 1 ] || usage
    name="$(basename "$1")"
    "${tpu[@]}" scp --recurse "$1" "$TPU:jax_prompt/$name" "${where[@]}" --worker=all
    ;;
  train)
    [ "$#" -ge 2 ] || usage
    workdir="$1" config="$2"
    shift 2
    # Quoted once more, for the shells of the workers.
    arguments="$(printf '%q ' --config "$config" --workdir "$workdir" --distributed "$@")"
    on_all "cd jax_prompt && exec .venv/bin/python launch/train.py $arguments"
    ;;
  fetch)
    [ "$#" -eq 1 ] || usage
    mkdir -p "$(dirname "$1")"
    "${tpu[@]}" scp --recurse "$TPU:jax_prompt/$1" "$1" "${where[@]}" --worker=0
    ;;
  delete)
    "${tpu[@]}" delete "$TPU" "${where[@]}"
    ;;
  *)
    usage
    ;;
esac
