r"""Train: jax-prompt train --config NAME[:k=v,k=v] --workdir DIR [--config.k=v].

    jax-prompt train --config tune:method=spt_deep,backbone=vit_ti16_224.augreg_in21k_ft_in1k \
        --config.data=FOLDER_OR_NPZ --config.weights=FILE --workdir runs/mine

NAME is a configuration of the package, or a file with get_config(arg). `--config NAME --help` lists
all its keys with their values and what they mean. The same command goes on with a run that was
stopped.

The run uses all devices of this machine. With --distributed it uses those of several processes;
start the command once in each of them (docs/scaling.md).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jax_prompt.cli.flags import read_flags
from jax_prompt.core.failure import Failure
from jax_prompt.runs.config import resolve
from jax_prompt.runs.run import run
from jax_prompt.train.processes import connect, end_after, is_supervised, supervise

# What a user can mend; all else is a defect and shows its traceback.
_FAILURES = (ValueError, FileNotFoundError, Failure)


def main(argv: Sequence[str]) -> None:
    """Resolves the config and runs it."""
    found = _flags()
    read_flags(found, argv, 'train', __doc__, ['config', 'workdir'])
    workdir = Path(found.workdir).expanduser()
    if found.distributed:
        _run_distributed(found, workdir)
        return
    run(resolve(found.config), workdir)


def _flags() -> Any:
    from absl import flags

    found = flags.FlagValues()
    flags.DEFINE_string('workdir', None, 'The run directory.', flag_values=found)
    flags.DEFINE_boolean(
        'distributed',
        False,
        'Join the other processes of this run. SLURM, Open MPI, TPU pods and Kubernetes say where '
        'they are; in other places give the next three flags.',
        flag_values=found,
    )
    flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0.', flag_values=found)
    flags.DEFINE_integer(
        'num_processes', None, 'Number of processes of the run.', flag_values=found
    )
    flags.DEFINE_integer('process_id', None, 'Number of this process, from 0.', flag_values=found)
    flags.DEFINE_integer(
        'heartbeat_seconds',
        30,
        'Seconds of silence after which a process counts as lost.',
        lower_bound=2,
        flag_values=found,
    )
    return found


def _run_distributed(found: Any, workdir: Path) -> None:
    """Runs one process of several, as the child of this one."""
    if not is_supervised():
        sys.exit(supervise([sys.executable, *sys.orig_argv[1:]], workdir))
    try:
        where = (found.coordinator, found.num_processes, found.process_id)
        connect(*where, heartbeat_seconds=found.heartbeat_seconds)
        run(resolve(found.config), workdir, quiet=jax.process_index() > 0)
    except Exception as error:
        end_after(error, _FAILURES, found.heartbeat_seconds)
