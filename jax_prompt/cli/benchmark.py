"""Benchmark: jax-prompt benchmark --config vtab:method=M,backbone=B --results DIR.

Each task is searched on val, then trained with several seeds and tested once a seed. At the end the
command prints the table of results. Start it again to go on. Any number of processes and machines
can share DIR. --workers N starts N of them on this machine, each with its own GPU or its own cores.
--list only shows the state of each run. The exit code is 0 if all is done, 1 if a run failed or is
to do, and 2 for wrong input. docs/benchmark.md says more.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jax_prompt.cli.flags import read_flags
from jax_prompt.core.lease import DEAD_SECONDS
from jax_prompt.suite.crew import Crew, Display
from jax_prompt.suite.shares import find_cores, find_gpus, shares
from jax_prompt.suite.suite import (
    Benchmark,
    Standing,
    check_ready,
    resolve_benchmark,
    show,
    standing,
    table_of,
)
from jax_prompt.suite.worker import Worker
from jax_prompt.train.processes import is_supervised

_CHILD = 'from jax_prompt.cli.main import main; main()'
_say = partial(print, flush=True)


def main(argv: Sequence[str]) -> int:
    """Runs or lists the benchmark of the config; returns the exit code."""
    found = _flags()
    read_flags(found, argv, 'benchmark', __doc__, ['config', 'results'])
    root, dead = Path(found.results).expanduser(), found.dead_seconds
    benchmark = resolve_benchmark(found.config)
    look = partial(standing, benchmark, root, dead)
    if is_supervised():  # one of a crew: the process that started it shows the rest
        _work(found, benchmark, root, quiet=True)
        return 0
    if not found.list and found.workers > 1:
        check_ready(benchmark, root)  # here, so that it is said once
        places = shares(found.workers, find_gpus(), find_cores())
        command = [sys.executable, '-c', _CHILD, 'benchmark', *argv]
        lost = Crew(command, places, _say).run(Display(look, _say).tell)
        if lost:
            _say(f'first worker that was lost: {lost}')
        stands = look()
    else:
        stands = look() if found.list else _work(found, benchmark, root, found.quiet)
    print(show(stands))
    print(f'\n{table_of(benchmark, root)}')
    return 0 if all(s.state == 'done' for s in stands) else 1


def _work(found: Any, benchmark: Benchmark, root: Path, quiet: bool) -> list[Standing]:
    """Works as one process, until every unit is done or failed."""
    retry, dead = found.retry_failed, found.dead_seconds
    return Worker(benchmark, root, retry_failed=retry, dead_seconds=dead, quiet=quiet).run()


def _flags() -> Any:
    from absl import flags

    found = flags.FlagValues()
    flags.DEFINE_string('results', None, 'The folder that all share.', flag_values=found)
    for name, text in (
        ('list', 'Show what is done, failed and to do; run nothing.'),
        ('retry_failed', 'Repeat runs that failed before.'),
        ('quiet', 'Print one line a run, without its epochs.'),
    ):
        flags.DEFINE_boolean(name, False, text, flag_values=found)
    flags.DEFINE_integer(
        'workers',
        1,
        'Processes on this machine, each with its own GPU, or its own cores where there is no GPU.',
        lower_bound=1,
        flag_values=found,
    )
    flags.DEFINE_float(
        'dead_seconds',
        DEAD_SECONDS,
        'Seconds of silence after which a process of another machine counts as gone.',
        lower_bound=1.0,
        flag_values=found,
    )
    return found
