"""Benchmark: python launch/benchmark.py --config configs/vtab.py:method=M,backbone=B --results DIR.

Each task is searched on val, then trained with several seeds and tested once a seed. At the end the
command prints the table of results. Start it again to go on. Any number of processes and machines
can share DIR. --list only shows the state of each run. The exit code is 0 if all is done, 1 if a
run failed or is to do, and 2 for wrong input. docs/benchmark.md says more.
"""

import sys
from pathlib import Path

import startup
from absl import flags
from ml_collections import config_flags

from jax_prompt.core.lease import DEAD_SECONDS
from jax_prompt.suite.suite import resolve_benchmark, show, standing, table_of
from jax_prompt.suite.worker import Worker

_CONFIG = config_flags.DEFINE_config_file('config', None, 'A file with get_config(arg).')
_RESULTS = flags.DEFINE_string('results', None, 'The folder that all processes share.')
_LIST = flags.DEFINE_boolean('list', False, 'Show what is done, failed and to do; run nothing.')
_RETRY = flags.DEFINE_boolean('retry_failed', False, 'Repeat runs that failed before.')
_QUIET = flags.DEFINE_boolean('quiet', False, 'Print one line a run, without its epochs.')
_DEAD = flags.DEFINE_float(
    'dead_seconds',
    DEAD_SECONDS,
    'Seconds of silence after which a process of another machine counts as gone.',
    lower_bound=1.0,
)


def main(argv: list[str]) -> None:
    """Runs or lists the benchmark of the config."""
    startup.start(argv)
    root = Path(str(_RESULTS.value)).expanduser()
    dead = _DEAD.value
    benchmark = resolve_benchmark(_CONFIG.value)
    if _LIST.value:
        stands = standing(benchmark, root, dead)
    else:
        runner = Worker(
            benchmark, root, retry_failed=_RETRY.value, dead_seconds=dead, quiet=_QUIET.value
        )
        stands = runner.run()
    print(show(stands))
    print(f'\n{table_of(benchmark, root)}')
    sys.exit(0 if all(s.state == 'done' for s in stands) else 1)


if __name__ == '__main__':
    startup.run(main, ['config', 'results'])
