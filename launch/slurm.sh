#!/usr/bin/env bash
# One run on several GPUs of a SLURM cluster: one process a GPU, on one node or many.
#
#   sbatch launch/slurm.sh WORKDIR CONFIG [--config.k=v ...]
#   sbatch --nodes=4 launch/slurm.sh runs/pets configs/tune.py:method=spt_deep,backbone=vit_h14_224 \
#       --config.data=FOLDER --config.weights=FILE --config.batch_size=256 --config.engine.fsdp=8
#
# Submit it from the repository, which all nodes must see, as they must see the data and the weights.
# The run directory need only be seen by the first node; let all see it, so that a requeued job may
# begin elsewhere. Options on the command line of sbatch win over those below: set the partition, the
# account and the time there, and the GPUs of a node both here and in --ntasks-per-node.
#
# JAX_PROMPT_VENV  the environment (default .venv; made by: python -m venv .venv &&
#                  .venv/bin/pip install -e '.[cuda]')
# MAX_RESTARTS     how often a job that lost a process is queued again (default 3)
#
#SBATCH --job-name=jax_prompt
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=jax_prompt-%j.log
set -euo pipefail

if [ "$#" -lt 2 ]; then
  echo 'usage: sbatch launch/slurm.sh WORKDIR CONFIG [--config.k=v ...]' >&2
  exit 2
fi
if [ -z "${SLURM_JOB_ID:-}" ]; then
  echo 'this is no SLURM job; submit it: sbatch launch/slurm.sh ...' >&2
  exit 2
fi
workdir="$1"
config="$2"
shift 2

# SLURM runs a copy of this file; the repository is where the job was submitted.
cd "$SLURM_SUBMIT_DIR"
python="${JAX_PROMPT_VENV:-.venv}/bin/python"
if [ ! -x "$python" ]; then
  echo "no $python; make the environment first (see the head of launch/slurm.sh)" >&2
  exit 2
fi

# The processes talk to each other directly; a proxy in between makes joining hang.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY
# The coordinator's port follows from the job's number; set JAX_COORDINATOR_PORT where it is taken.

# No --gpus-per-task and no --gpu-bind: JAX takes the GPU of the task's number on its node, so each
# task must see all GPUs of its node.
# --kill-on-bad-exit=0: the processes that are left say themselves which one is lost, and end.
status=0
srun --kill-on-bad-exit=0 --label --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  "$python" launch/train.py --config "$config" --workdir "$workdir" --distributed "$@" || status=$?

# 2: wrong input, which another try won't mend. 1: a defect, or a process that failed by itself.
# Above 128: a signal; the run goes on from its last checkpoint.
if [ "$status" -gt 128 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${MAX_RESTARTS:-3}" ]; then
  echo "ended with status $status; queued again, to go on from the last checkpoint"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
