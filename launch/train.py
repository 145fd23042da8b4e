"""Train: python launch/train.py --config configs/X.py[:k=v,k=v] --workdir DIR [--config.k=v].

`--config X --help` lists every key of a config with its value and what it means.

The run uses all devices of this machine. With --distributed it uses those of several processes;
start the command once in each of them (launch/slurm.sh, launch/tpu_vm.sh and docs/scaling.md).
"""

import sys
from pathlib import Path

import jax
import startup
from absl import flags
from ml_collections import config_flags

from jax_prompt.core.failure import Failure
from jax_prompt.runs.config import resolve
from jax_prompt.runs.run import run
from jax_prompt.train.processes import connect, end_after, is_supervised, supervise

# What a user can mend; all else is a defect and shows its traceback.
_FAILURES = (ValueError, FileNotFoundError, Failure)

_CONFIG = config_flags.DEFINE_config_file('config', None, 'A file with get_config(arg).')
_WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory.')
_DISTRIBUTED = flags.DEFINE_boolean(
    'distributed',
    False,
    'Join the other processes of this run. SLURM, Open MPI, TPU pods and Kubernetes say where they '
    'are; in other places give the next three flags.',
)
_COORDINATOR = flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0.')
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Number of processes of the run.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Number of this process, from 0.')
_HEARTBEAT = flags.DEFINE_integer(
    'heartbeat_seconds',
    30,
    'Seconds of silence after which a process counts as lost.',
    lower_bound=2,
)


def main(argv: list[str]) -> None:
    """Resolves the config and runs it."""
    startup.start(argv)
    if _DISTRIBUTED.value:
        _run_distributed()
        return
    run(resolve(_CONFIG.value), _workdir())


def _workdir() -> Path:
    return Path(str(_WORKDIR.value)).expanduser()


def _run_distributed() -> None:
    """Runs one process of several, as the child of this one."""
    if not is_supervised():
        sys.exit(supervise([sys.executable, *sys.orig_argv[1:]], _workdir()))
    try:
        where = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        connect(*where, heartbeat_seconds=_HEARTBEAT.value)
        run(resolve(_CONFIG.value), _workdir(), quiet=jax.process_index() > 0)
    except Exception as error:
        end_after(error, _FAILURES, _HEARTBEAT.value)


if __name__ == '__main__':
    startup.run(main, ['config', 'workdir'])
