"""Tests marked `optimised` run here, in a process that compiles as a user's program does."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
MARKED = [
    path.relative_to(TESTS).as_posix()
    for path in sorted(TESTS.rglob('test_*.py'))
    if re.search(r'^@pytest\.mark\.optimised$', path.read_text(encoding='utf-8'), re.MULTILINE)
]


@pytest.mark.parametrize('name', MARKED)
def test_optimised_programs_pass_too(name):
    flags = '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=3'
    # What they take counts once, as this test's (JAX_PROMPT_TIMES).
    environ = {name: value for name, value in os.environ.items() if name != 'JAX_PROMPT_TIMES'}
    command = [sys.executable, '-m', 'pytest', '-q', '-m', 'optimised', str(TESTS / name)]
    done = subprocess.run(
        [*command, '-p', 'no:cacheprovider'],
        cwd=TESTS.parent,
        env={**environ, 'XLA_FLAGS': flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r'[1-9]\d* passed', done.stdout)


def test_some_tests_are_marked():
    assert 'search/test_population.py' in MARKED
