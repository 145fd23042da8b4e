"""Several workers on one machine: what each sees, and how they end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jax_prompt.core.failure import Failure, Interrupted
from jax_prompt.suite import shares as machine
from jax_prompt.suite.crew import Crew, Display
from jax_prompt.suite.shares import Share, find_cores, find_gpus, shares
from jax_prompt.suite.suite import Standing, Unit

ROOT = Path(__file__).resolve().parents[2]


def _crew(code, count=2, gpus=('0', '1')):
    said = []
    return Crew([sys.executable, '-c', code], shares(count, gpus, find_cores()), said.append), said


def _nothing():
    pass


def test_a_machine_is_divided():
    assert [share.environment for share in shares(2, ['3', 'GPU-a', '5'], [0])] == [
        {'CUDA_VISIBLE_DEVICES': '3'},
        {'CUDA_VISIBLE_DEVICES': 'GPU-a'},
    ]
    parts = shares(3, [], [0, 1, 2, 3, 8, 10, 12])
    assert [share.cores for share in parts] == [(0, 1), (2, 3), (8, 10, 12)]
    assert [share.name for share in parts] == ['cores 0-1', 'cores 2-3', 'cores 8, 10, 12']
    assert shares(1, [], [4])[0].name == 'core 4'
    with pytest.raises(ValueError, match=r'workers is 3, and .* 2 GPUs; allowed: 1 to 2'):
        shares(3, ['0', '1'], [0, 1, 2, 3])
    with pytest.raises(ValueError, match='2 cores; allowed: 1 to 2'):
        shares(3, [], [0, 1])


def test_gpus_are_found_without_jax(monkeypatch, tmp_path):
    def plugins(group):
        assert group == 'jax_plugins'
        return [type('Entry', (), {'name': 'xla_cuda13'})]

    driver = tmp_path / 'nvidia-smi'
    driver.write_text('#!/bin/sh\necho "GPU 0: H100 (UUID: GPU-a)"\necho "GPU 1: H100"\n')
    driver.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setenv('JAX_PLATFORMS', '')
    monkeypatch.setattr(machine.metadata, 'entry_points', lambda group: [])
    assert find_gpus() == []  # JAX without CUDA
    monkeypatch.setattr(machine.metadata, 'entry_points', plugins)
    assert find_gpus() == ['0', '1']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '1')
    assert find_gpus() == ['1']
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
    assert find_gpus() == []


def test_each_worker_sees_its_own_share():
    crew, said = _crew('import os; print("sees", os.environ["CUDA_VISIBLE_DEVICES"])')
    assert crew.run(_nothing) == ''
    assert sorted(said) == [
        'worker 1: GPU 0',
        'worker 1: sees 0',
        'worker 2: GPU 1',
        'worker 2: sees 1',
    ]
    if not hasattr(os, 'sched_setaffinity'):
        return
    one, before = find_cores()[-1], os.sched_getaffinity(0)
    said = []
    code = 'import os; print(sorted(os.sched_getaffinity(0)))'
    Crew([sys.executable, '-c', code], [Share('one', {}, (one,))], said.append).run(_nothing)
    assert said == ['worker 1: one', f'worker 1: [{one}]']
    assert os.sched_getaffinity(0) == before


def test_a_lost_worker_is_named_and_the_others_go_on():
    code = (
        'import os; print("begun", flush=True)\n'
        'if os.environ["CUDA_VISIBLE_DEVICES"] == "0": os.kill(os.getpid(), 9)\n'
        'print("done")'
    )
    crew, said = _crew(code)
    assert crew.run(_nothing) == 'worker 1 (GPU 0) was ended by SIGKILL: begun'
    assert 'worker 2: done' in said
    crew, _ = _crew(code, 1)
    with pytest.raises(Failure, match=r'all workers were lost\. worker 1 .* SIGKILL'):
        crew.run(_nothing)


_WAITS = 'import os, time; print("begun", flush=True)\n%s\ntime.sleep(300)'


def test_wrong_input_ends_all():
    second = 'os.environ["CUDA_VISIBLE_DEVICES"] == "1"'
    crew, _ = _crew(_WAITS % f'if {second}: print("error: no x", flush=True); os._exit(2)')
    with pytest.raises(ValueError, match=r'^no x$'):
        crew.run(_nothing)
    assert [process.returncode for process in crew.processes] == [-signal.SIGTERM, 2]


def test_an_interrupt_ends_all():
    crew, said = _crew(_WAITS % '')

    def look():
        if 'worker 1: begun' in said and 'worker 2: begun' in said:
            raise Interrupted('', signal.SIGTERM)

    with pytest.raises(Interrupted):
        crew.run(look, 0.05)
    assert [process.returncode for process in crew.processes] == [-signal.SIGTERM] * 2


def test_progress_is_said_when_it_changes(tmp_path):
    units = [Unit('t', seed, tmp_path / str(seed)) for seed in range(3)]
    stands = [*map(Standing, units, ('done', 'busy', 'to do'))]
    said = []
    display = Display(lambda: stands, said.append)
    display.tell()
    display.tell()
    assert said == ['1 of 3 units done, 0 failed']
    stands[1] = _state(stands[1], 'failed', 'ValueError: x')
    display.tell()
    assert said[1] == f'first failure: t seed 1: ValueError: x; {tmp_path / "1" / "failed"}'
    assert said[2].startswith('1 of 3 units done, 1 failed, about ')
    stands[2] = _state(stands[2], 'failed', 'ValueError: y')
    display.tell()
    assert said[3:] == ['1 of 3 units done, 2 failed']


def _state(stand, state, detail):
    return stand._replace(state=state, detail=detail)


def test_two_workers_do_a_benchmark(pack, tmp_path):
    command = [sys.executable, 'launch/benchmark.py', '--config=packs:method=linear']
    command += [f"--config.tasks=('{pack}',)", '--config.seeds=(0,1)', '--config.run.epochs=1']
    command += ['--config.run.search_lrs=(0.01,)', f'--results={tmp_path / "all"}']
    command += ['--config.run.backbone=vit_micro', '--config.run.optim.warmup_epochs=0']
    env = {**os.environ, 'XLA_FLAGS': os.environ['XLA_FLAGS'].replace('count=8', 'count=1')}
    first = subprocess.run(
        [*command, '--workers=2'], cwd=ROOT, env=env, capture_output=True, text=True
    )
    if len(find_cores()) < 2:
        assert first.returncode == 2 and 'allowed: 1 to 1' in first.stderr
        return
    assert first.returncode == 0, first.stdout + first.stderr
    lines = first.stdout.splitlines()
    for seed in (0, 1):
        assert sum(line.endswith(f'== linear, {pack} seed {seed}') for line in lines) == 1
    assert '3 of 3 units done, 0 failed' in lines
    assert lines.count('3 done') == 1  # one table, of the process that started them
