"""Benchmark: jax-prompt benchmark --config vtab:method=M,backbone=B --results DIR.

Each task is searched on val, then trained with several seeds and tested once a seed. At the end the
command prints the table of results. Start it again to go on. Any number of processes and machines
can share DIR. --list only shows the state of each run. The exit code is 0 if all is done, 1 if a
run failed or is to do, and 2 for wrong input. docs/benchmark.md says more.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax_prompt.cli.flags import read_flags
from jax_prompt.core.lease import DEAD_SECONDS
from jax_prompt.suite.suite import resolve_benchmark, show, standing, table_of
from jax_prompt.suite.worker import Worker


def main(argv: Sequence[str]) -> int:
    """Runs or lists the benchmark of the config; returns the exit code."""
    found = _flags()
    read_flags(found, argv, 'benchmark', __doc__, ['config', 'results'])
    root, dead = Path(found.results).expanduser(), found.dead_seconds
    benchmark = resolve_benchmark(found.config)
    if found.list:
        stands = standing(benchmark, root, dead)
    else:
        retry, quiet = found.retry_failed, found.quiet
        stands = Worker(benchmark, root, retry_failed=retry, dead_seconds=dead, quiet=quiet).run()
    print(show(stands))
    print(f'\n{table_of(benchmark, root)}')
    return 0 if all(s.state == 'done' for s in stands) else 1


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
    flags.DEFINE_float(
        'dead_seconds',
        DEAD_SECONDS,
        'Seconds of silence after which a process of another machine counts as gone.',
        lower_bound=1.0,
        flag_values=found,
    )
    return found
