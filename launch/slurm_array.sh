#!/usr/bin/env bash
# One benchmark on many GPUs of a SLURM cluster: one task of a job array a GPU, in any order.
#
#   sbatch --array=0-15 launch/slurm_array.sh RESULTS CONFIG [FLAGS]
#   sbatch --array=0-15 launch/slurm_array.sh runs/vtab vtab:method=spt_deep,backbone=vit_b16_224 \
#       --config.run.weights=FILE
#
# Submit it from the repository, which all nodes must see, as they must see RESULTS, the data and the
# weights. The tasks share RESULTS and divide the work by themselves (docs/benchmark.md), so it does
# not matter how many run at once, and more can be submitted later. Options on the command line of
# sbatch win over those below: set the partition, the account and the time there.
#
# JAX_PROMPT_VENV  the environment (default .venv; made by: python -m venv .venv &&
#                  .venv/bin/pip install -e '.[cuda]')
# MAX_RESTARTS     how often a task that a signal ended is queued again (default 10)
#
#SBATCH --job-name=jax_prompt
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=jax_prompt-%A_%a.log
set -euo pipefail

if [ "$#" -lt 2 ]; then
  echo 'usage: sbatch --array=0-N launch/slurm_array.sh RESULTS CONFIG [FLAGS]' >&2
  exit 2
fi
if [ -z "${SLURM_ARRAY_JOB_ID:-}" ]; then
  echo 'this is no task of a SLURM job array; submit it: sbatch --array=0-N launch/slurm_array.sh ...' >&2
  exit 2
fi
results="$1"
config="$2"
shift 2

# SLURM runs a copy of this file; the repository is where the job was submitted.
cd "$SLURM_SUBMIT_DIR"
python="${JAX_PROMPT_VENV:-.venv}/bin/python"
if [ ! -x "$python" ]; then
  echo "no $python; make the environment first (see the head of launch/slurm_array.sh)" >&2
  exit 2
fi

# Three minutes before the time is over SLURM sends SIGTERM: the run keeps a checkpoint and ends.
status=0
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  "$python" launch/benchmark.py --config "$config" --results "$results" --quiet "$@" || status=$?

# 2: wrong input. 1: a run failed, which is in the table with its reason, or a defect. Neither is
# mended by another try. Above 128: a signal; the task goes on with what is left.
if [ "$status" -gt 128 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${MAX_RESTARTS:-10}" ]; then
  echo "ended with status $status; queued again, to go on with what is left"
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$status"
