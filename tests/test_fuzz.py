"""A short sample of `fuzz_files.py`: its table has no bad case."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='forks')
def test_mutated_files_are_read_or_refused_by_name():
    """In a process of its own: it forks, which threads of other tests would not bear."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    done = subprocess.run(
        [sys.executable, str(TESTS / 'fuzz_files.py'), '400', '--seed', '7'],
        env={**os.environ, 'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    same, other, refused, bad = map(int, done.stdout.split('\nall')[1].split()[:4])
    assert (same + other + refused, bad) == (400, 0) and refused > 200
