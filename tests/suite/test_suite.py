import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_data import encode, picture, write_pack

from configs import offline_suite
from jax_prompt.core.lease import acquire, read_tenure
from jax_prompt.report import rows
from jax_prompt.runs import backbone, inputs
from jax_prompt.runs.run import run, search
from jax_prompt.suite import worker
from jax_prompt.suite.suite import (
    Benchmark,
    resolve_benchmark,
    show,
    standing,
    table_of,
    units_of,
)
from jax_prompt.suite.worker import Worker

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def second(tmp_path_factory):
    """A pack of smooth pictures: 12 train, 4 val, 4 test."""
    path = tmp_path_factory.mktemp('second') / 'smooth.npz'
    return write_pack(path, [encode(picture(i)) for i in range(20)])


@pytest.fixture
def make(make_config):
    """Returns a function that makes a small benchmark of some tasks."""

    def made(tasks, seeds=(0, 1), **changes):
        options = {'method': 'linear', 'search': True, 'search_lrs': (1e-4, 1e-2)}
        options['image_size'] = 16
        config = make_config(**{**options, 'train_on': 'train+val', **changes})
        return Benchmark('mine', tuple(map(str, tasks)), config, seeds)

    return made


def _work(benchmark, root, **options):
    """Returns what one process says, and how the units stand then."""
    said = []
    stands = Worker(benchmark, root, quiet=True, say=said.append, **options).run(0.01)
    return said, [(one.unit.name.split('/')[-1], one.state) for one in stands]


def _files(root):
    return sorted(path.name for path in (root / 'rows').iterdir())


def _row(folder, task, seed):
    found = [r for r in rows.read(folder).rows if r.task == str(task) and r.seed == seed]
    assert len(found) == 1
    return found[0]


def test_search_then_seeds_then_nothing_to_do(make, make_config, tmp_path, pack, second):
    benchmark, root = make((pack, second)), tmp_path / 'all'
    said, stands = _work(benchmark, root)
    assert {state for _, state in stands} == {'done'}
    assert len(said) == len(stands) == 6
    table = rows.read(root / 'rows')
    assert len(table.rows) == 4
    assert not table.superseded + table.problems
    # The way of one run that searches and trains again on train + val.
    whole = replace(benchmark.config(str(second)), seed=0)
    want = run(whole, tmp_path / 'whole', quiet=True)
    got = _row(root / 'rows', second, 0)
    assert (got.accuracy, got.trained_on) == (want['test_accuracy'], 'train+val')
    assert got.chosen['lr'] == want['lr']
    assert got.hyperparameters['search_lrs'] == [1e-4, 1e-2]
    found = units_of(benchmark, root)[3:]
    result = json.loads((found[1].folder / 'run' / 'result.json').read_text())
    assert result['test_loss'] == want['test_loss']
    assert result['val_accuracy'] is None
    chosen = json.loads((found[0].folder / 'run' / 'chosen.json').read_text())
    assert chosen['search'][0]['val_accuracy'] == want['search'][0]['val_accuracy']
    assert 'test' not in ' '.join(chosen)
    assert not (found[0].folder / 'run' / 'result.json').exists()
    # The seed is in the run, and what was asked is the same for all.
    other = _row(root / 'rows', second, 1)
    assert other.hyperparameters == got.hyperparameters
    shown = table_of(benchmark, root)
    assert 'mean of 2' not in shown  # one group
    assert f'{100 * (got.accuracy + other.accuracy) / 2:.2f}' in shown
    before = _files(root)
    assert _work(benchmark, root, retry_failed=True) == ([], stands)
    assert _files(root) == before
    more = replace(benchmark, seeds=(0, 1, 2))
    assert len(_work(more, root)[0]) == 2
    assert len(rows.read(root / 'rows').rows) == 6


def test_the_search_reads_no_image_of_test(make, tmp_path, second, monkeypatch):
    real = inputs.open_source

    def guarded(*args, **options):
        source = real(*args, **options)

        def forbidden(i):
            raise PermissionError(f'image {i} of test was read')

        splits = {**source.splits, 'test': replace(source.splits['test'], read=forbidden)}
        return replace(source, splits=splits)

    monkeypatch.setattr(inputs, 'open_source', guarded)
    config = make((second,)).config(str(second))
    wide = replace(config, search_lrs=(1e-6, 1e-4, 1e-2))
    found = search(wide, tmp_path / 'search', quiet=True)
    ends = {1e-6: {'lr': 'lowest'}, 1e-4: {}, 1e-2: {'lr': 'highest'}}
    assert found['at_edge'] == ends[found['lr']] != {}
    with pytest.raises(PermissionError, match='of test was read'):
        run(config, tmp_path / 'run', quiet=True)
    with pytest.raises(ValueError, match='nothing to choose'):
        search(replace(config, search=False), tmp_path / 'none')


def test_a_failed_task_is_recorded_and_the_rest_goes_on(make, tmp_path, pack, second):
    bad = tmp_path / 'bad.npz'
    broken = [encode(picture(i)) for i in range(20)]
    broken[3] = broken[3][:60]
    write_pack(bad, broken)
    benchmark, root = make((bad, second)), tmp_path / 'all'
    said, stands = _work(benchmark, root)
    assert [state for _, state in stands] == ['failed'] * 3 + ['done'] * 3
    assert len(said) == 4 + 3  # a search and three failures, a search and two runs
    failed = _row(root / 'rows', bad, 1)
    assert failed.status == 'failed'
    assert 'search: ValueError' in failed.reason
    assert 'bad.npz[3]' in failed.reason
    assert failed.weights == _row(root / 'rows', second, 1).weights
    assert 'misses: ' + str(bad) in table_of(benchmark, root).replace('\\', '')
    before = _files(root)
    assert _work(benchmark, root) == ([], stands)
    assert _files(root) == before
    write_pack(bad, [encode(picture(i)) for i in range(20)])
    _, stands = _work(benchmark, root, retry_failed=True)
    assert {state for _, state in stands} == {'done'}
    assert _row(root / 'rows', bad, 1).status == 'done'


def test_diverging_candidates_are_a_failure_that_retrying_repeats(make, tmp_path, second):
    options = {'optim': {'name': 'sgd'}, 'search_lrs': (3e38,)}
    benchmark, root = make((second,), seeds=(5,), **options), tmp_path / 'all'
    for retry in (False, True):
        said, stands = _work(benchmark, root, retry_failed=retry)
        assert [state for _, state in stands] == ['failed', 'failed']
        assert said[0].startswith('== linear')
        assert 'every candidate' in said[-1]
    row = _row(root / 'rows', second, 5)
    assert 'NonFiniteLoss' in row.reason
    assert row.weights['name'] == 'vit_micro.tiny_imagenet'


def test_errors_of_the_weights_name_the_keys_of_a_benchmark(make, tmp_path, second, monkeypatch):
    elsewhere = make((second,), seeds=(5,), weights=str(tmp_path / 'none.pth'))
    with pytest.raises(FileNotFoundError, match=r'--config\.run\.weights'):
        _work(elsewhere, tmp_path / 'missing')
    load = backbone.load_weights

    def unsettled(*args, **options):
        tree, report = load(*args, **options)
        return tree, replace(report, unsettled='say which: --config.backbone=vit_micro.mae')

    monkeypatch.setattr(backbone, 'load_weights', unsettled)
    said, _ = _work(make((second,), seeds=(5,)), tmp_path / 'unsettled')
    assert 'say which: --config.run.backbone=vit_micro.mae' in said[1]


def test_missing_data_is_a_named_hole(make, tmp_path, second):
    root, data = tmp_path / 'all', tmp_path / 'data'
    data.mkdir()
    benchmark = make(('vtab/dtd', second), seeds=(0,), input={'data_dir': str(data)})
    _, stands = _work(benchmark, root)
    assert [state for _, state in stands] == ['to do', 'failed', 'done', 'done']
    row = _row(root / 'rows', 'vtab/dtd', 0)
    assert 'data missing' in row.reason
    assert 'jax-prompt prepare-data --task vtab/dtd' in row.reason
    assert benchmark.groups == {'Natural': ('vtab/dtd',), 'mine': (str(second),)}
    text = table_of(benchmark, root).replace('\\', '')
    assert 'misses: vtab/dtd' in text
    before = _files(root)
    _work(benchmark, root, retry_failed=True)
    assert _files(root) == before


def test_who_lost_a_unit_records_nothing(make, tmp_path, second, monkeypatch):
    benchmark, root = make((second,), seeds=(0,)), tmp_path / 'all'
    real, lost = worker.run, []

    def slow(config, workdir, quiet):
        if not lost:
            lost.append(workdir)
            os.rename(workdir, workdir.with_name('run@elsewhere-00000000-1-abcd'))
            raise FileNotFoundError(workdir / 'result.json')
        return real(config, workdir, quiet=quiet)

    monkeypatch.setattr(worker, 'run', slow)
    mine = Worker(benchmark, root, quiet=True, say=lambda _: None)
    assert [mine._advance(unit) for unit in mine.units] == ['worked', 'worked']
    assert not (root / 'rows').exists()
    assert [one.state for one in standing(benchmark, root)] == ['done', 'busy']
    os.utime(next(mine.units[1].folder.iterdir()) / 'heartbeat', (0, 0))
    _, stands = _work(benchmark, root)
    assert {state for _, state in stands} == {'done'}
    assert _row(root / 'rows', second, 0).status == 'done'


def _launch(*args):
    command = [sys.executable, 'launch/benchmark.py', *args]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _kill(process, root, pattern):
    """Kills a process as soon as a file that fits is there."""
    while process.poll() is None and not list(root.glob(f'runs/*/*/{pattern}')):
        time.sleep(0.03)
    process.send_signal(signal.SIGKILL)
    text, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, text


def test_who_is_waited_for_is_said(make, tmp_path, second, monkeypatch):
    benchmark = make([second], search=False)
    first, other = units_of(benchmark, tmp_path)
    lease = acquire(first.folder, read_tenure(first.folder))
    (other.folder / 'notes').mkdir(parents=True)
    said = []
    monkeypatch.setattr(worker.time, 'sleep', lambda _: pytest.exit('waits'))
    with pytest.raises(pytest.exit.Exception):
        Worker(benchmark, tmp_path, say=said.append).run()
    owner = lease.directory.name.removeprefix('run@')
    assert f'seed 0 ({owner}, last sign 0 s ago); ' in said[-1]
    assert f'seed 1 ({other.folder} names no process; if none works there, remove it)' in said[-1]


def test_killed_and_resumed_by_two_processes_it_gives_the_same_table(tmp_path, second):
    third = write_pack(tmp_path / 'third.npz', [encode(picture(i)) for i in range(50, 90)])
    root, tasks, seeds = tmp_path / 'killed', (str(second), str(third)), (3, 4)
    config = offline_suite.get_config('method=linear')
    short = {'run.epochs': 4, 'run.search_lrs': (1e-3, 1e-2), 'run.image_size': 16}
    short |= {'run.engine.checkpoint_seconds': 0.0, 'run.engine.eval_batch_size': 8}
    changes = {'tasks': tasks, 'seeds': seeds, **short}
    config.update_from_flattened_dict(changes)
    whole = resolve_benchmark(config)
    args = ['--config', 'configs/offline_suite.py:method=linear', '--results', str(root)]
    args += ['--compilation_cache=', '--quiet']
    args += [f'--config.{name}={value}' for name, value in changes.items()]
    _kill(_launch(*args), root, 'search/run@*/search/*/[0-9]*')
    _kill(_launch(*args), root, 'seed_3/run@*/checkpoints/[0-9]*')
    stands = standing(whole, root)
    left = [one.unit.name for one in stands if one.state == 'to do']
    assert 3 <= len(left) <= 5
    shown = show(stands)
    assert f'done   {second} search\n' in shown
    assert shown.endswith(f'{6 - len(left)} done, {len(left)} to do')
    both = [_launch(*args), _launch(*args)]
    texts = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    # Each unit that was left was done by one of the two.
    done = [line for text in texts for line in text.splitlines() if line.startswith('== ')]
    assert sorted(done) == sorted(f'== linear, {name}' for name in left)
    for text in texts:
        assert '6 done' in text
    _work(whole, tmp_path / 'whole')
    for task in tasks:
        for seed in seeds:
            got, want = (_row(one / 'rows', task, seed) for one in (root, tmp_path / 'whole'))
            assert got.accuracy == want.accuracy
            assert got.chosen == want.chosen
            assert got.run_id == want.run_id
    accuracies = [
        table_of(whole, one).split('## Measured: time')[0] for one in (root, tmp_path / 'whole')
    ]
    assert accuracies[0] == accuracies[1]
    assert accuracies[0] in texts[0]
    assert not rows.read(root / 'rows').superseded
