"""A signal to launch/quickstart.sh alone ends the trainings that it started."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Stands for the environment's Python: names cores, and trains until it is ended.
_PYTHON = """#!/bin/bash
case "$1" in
  -c) echo "" ;;
  launch/train.py) echo $$ >"$PIDS/$$"; exec sleep 60 ;;
esac
"""


def _alive(pid):
    try:
        state = Path(f'/proc/{pid}/stat').read_text(encoding='ascii').rpartition(')')[2].split()[0]
    except FileNotFoundError:
        return False
    return state != 'Z'


def _until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='looks into /proc')
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_script_alone_leaves_no_process(tmp_path, number):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip('the tests run in the background, where this signal is ignored')
    for folder in ('launch', 'venv/bin', 'pids'):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / 'launch' / 'quickstart.sh', tmp_path / 'launch')
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    python = tmp_path / 'venv' / 'bin' / 'python'
    python.write_text(_PYTHON)
    python.chmod(0o755)
    stamp = f'{{ "{sys.executable}" --version; pwd; cat pyproject.toml; }} | cksum > venv/stamp'
    subprocess.run(['bash', '-c', stamp], cwd=tmp_path, check=True)
    pids = tmp_path / 'pids'
    changes = {'PYTHON': sys.executable, 'JAX_PROMPT_VENV': 'venv', 'PIDS': str(pids)}
    script = subprocess.Popen(
        ['bash', 'launch/quickstart.sh', str(tmp_path / 'runs')],
        cwd=tmp_path,
        env={**os.environ, **changes},
        start_new_session=True,
    )
    try:
        assert _until(lambda: len(os.listdir(pids)) == 2)
        trainings = [int(name) for name in os.listdir(pids)]
        script.send_signal(number)
        assert script.wait(20) == 128 + number
        assert _until(lambda: not any(map(_alive, trainings)))
    finally:
        for pid in [int(name) for name in os.listdir(pids)]:
            if _alive(pid):
                os.kill(pid, signal.SIGKILL)
        if script.poll() is None:
            script.kill()
