"""launch/slurm_array.sh against stand-ins for sbatch, srun and scontrol."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Runs a copy of the script once for each number of --array=A-B, as SLURM would.
_SBATCH = """#!/usr/bin/env bash
range="${1#--array=}"; script="$2"; shift 2
cp "$script" "$STAND_IN/copy.sh"
for i in $(seq "${range%-*}" "${range#*-}"); do
  SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID="$i" SLURM_JOB_ID=$((80 + i)) SLURM_CPUS_PER_TASK=4 \\
    SLURM_SUBMIT_DIR="$PWD" bash "$STAND_IN/copy.sh" "$@"
  echo "$?" >> "$STAND_IN/status"
done
"""
_SRUN = '#!/usr/bin/env bash\n[ "$1" = --cpus-per-task=4 ] && shift && exec "$@"\n'
_SCONTROL = '#!/usr/bin/env bash\necho "$@" >> "$STAND_IN/requeued"\n'
# In place of Python: notes what it is asked, and ends as the test says.
_PYTHON = '#!/usr/bin/env bash\nprintf "%s|" "$@" >> "$STAND_IN/asked"; exit "$ENDS"\n'


@pytest.fixture
def submit(tmp_path, monkeypatch):
    """Returns a function that submits the script; it gives (exit codes, output, requeued)."""
    for name, text in (
        ('sbatch', _SBATCH),
        ('srun', _SRUN),
        ('scontrol', _SCONTROL),
        ('venv/bin/python', _PYTHON),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, 'STAND_IN': str(tmp_path), 'JAX_PROMPT_VENV': str(tmp_path / 'venv')}
    env['PATH'] = f'{tmp_path}{os.pathsep}{env["PATH"]}'

    def submitted(*words, ends=0, **variables):
        command = ['sbatch', '--array=0-1', 'launch/slurm_array.sh', *words]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**env, 'ENDS': str(ends), **variables},
            capture_output=True,
            text=True,
        )
        queued = tmp_path / 'requeued'
        requeued = queued.read_text().splitlines() if queued.exists() else []
        return (tmp_path / 'status').read_text().split(), done.stdout + done.stderr, requeued

    return submitted


def test_each_task_works_on_the_same_results(submit, tmp_path):
    status, _, requeued = submit('runs/vtab', 'vtab:method=lora', '--config.run.weights=a b')
    assert status == ['0', '0'] and not requeued
    one = 'launch/benchmark.py|--config|vtab:method=lora|--results|runs/vtab|--quiet|'
    assert (tmp_path / 'asked').read_text() == 2 * (one + '--config.run.weights=a b|')


@pytest.mark.parametrize(
    ('ends', 'restarts', 'want'),
    [(143, '0', ['requeue 77_0', 'requeue 77_1']), (143, '10', []), (1, '0', []), (2, '0', [])],
)
def test_a_task_that_a_signal_ended_is_queued_again(submit, ends, restarts, want):
    status, _, requeued = submit('r', 'vtab', ends=ends, SLURM_RESTART_COUNT=restarts)
    assert status == [str(ends)] * 2 and requeued == want


def test_what_is_missing_is_said(submit):
    status, said, _ = submit('r')
    assert status == ['2', '2'] and 'usage: sbatch' in said
    status, said, _ = submit('r', 'vtab', JAX_PROMPT_VENV='nowhere')
    assert status[2:] == ['2', '2'] and 'no nowhere/bin/python' in said
    alone = subprocess.run(
        ['bash', 'launch/slurm_array.sh', 'r', 'vtab'], cwd=ROOT, capture_output=True, text=True
    )
    assert alone.returncode == 2 and 'no task of a SLURM job array' in alone.stderr
