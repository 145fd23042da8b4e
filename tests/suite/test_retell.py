"""What a benchmark's table lost is told again; what a directory lost is done again."""

import json
import shutil

import pytest
from small_data import encode, picture, write_pack

from jax_prompt.report import rows
from jax_prompt.suite import worker
from jax_prompt.suite.retell import chosen_of
from jax_prompt.suite.suite import Benchmark, table_of, units_of
from jax_prompt.suite.worker import Worker


@pytest.fixture
def benchmark(make_config, tmp_path):
    pack = write_pack(tmp_path / 'smooth.npz', [encode(picture(i)) for i in range(20)])
    options = {'method': 'linear', 'search': True, 'search_lrs': (1e-4, 1e-2), 'epochs': 1}
    config = make_config(**options, train_on='train+val')
    return Benchmark('mine', (str(pack),), config, (0, 1))


def _search(config, workdir, quiet):
    """Stands for a search: it chooses the second candidate."""
    name, (hyper, _) = [*config.candidates.items()][1]
    (workdir / 'chosen.json').write_text(json.dumps({'name': name, **hyper._asdict()}))


def _run(config, workdir, quiet):
    """Stands for a run: what its row needs, and an accuracy of its own."""
    result = {'test_accuracy': config.seed / 4, 'test_accuracy_best_val': None, 'lr': config.lr}
    result |= dict.fromkeys(('num_trainable', 'num_trainable_head', 'seconds_total'), 1)
    result |= {'images_per_second': 1.0, 'peak_memory_mb': 1.0, 'versions': {}, 'machine': {}}
    result |= {'method': config.method, 'backbone': config.backbone, 'seed': config.seed}
    result |= {'trained_on': config.train_on, 'data': 'smooth', 'data_fingerprint': 'f'}
    (workdir / 'result.json').write_text(json.dumps({**result, 'weights': None}))


@pytest.fixture
def stood_in(monkeypatch):
    monkeypatch.setattr(worker, 'search', _search)
    monkeypatch.setattr(worker, 'run', _run)


def _work(benchmark, root, **options):
    said = []
    stands = Worker(benchmark, root, quiet=True, say=said.append, **options).run(0.01)
    return said, [one.state for one in stands]


def _rows(root):
    table = rows.read(root / 'rows')
    assert not table.problems
    return sorted((row.run_id, row.accuracy, row.status, row.chosen['lr']) for row in table.rows)


DAMAGES = {
    'gone': lambda path: path.unlink(),
    'empty': lambda path: path.write_bytes(b''),
    'torn': lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    'noise': lambda path: path.write_bytes(bytes(range(256))),
    'altered': lambda path: path.write_text(path.read_text().replace('0.25', '0.75')),
}


@pytest.mark.parametrize('how', DAMAGES)
def test_a_row_that_is_lost_is_told_again(benchmark, tmp_path, stood_in, how):
    root = tmp_path / 'all'
    _work(benchmark, root)
    want, files = _rows(root), sorted(path.name for path in (root / 'rows').iterdir())
    assert [accuracy for _, accuracy, _, _ in sorted(want, key=lambda row: row[1])] == [0.0, 0.25]
    for path in (root / 'rows').iterdir():
        if '"seed": 1' in path.read_text():
            DAMAGES[how](path)
    if how != 'gone':
        problem = rows.read(root / 'rows').problems[0]
        assert how in problem or how == 'noise'
        assert problem in table_of(benchmark, root)
    said, states = _work(benchmark, root)
    assert states == ['done'] * 3
    assert len(said) == 1
    assert 'seed 1: its row was lost; told again from' in said[0]
    assert _rows(root) == want
    assert sorted(path.name for path in (root / 'rows').iterdir()) == files
    assert _work(benchmark, root)[0] == []


def test_a_damaged_row_of_another_time_goes_when_its_run_is_told_again(
    benchmark, tmp_path, stood_in
):
    root = tmp_path / 'all'
    _work(benchmark, root)
    want = _rows(root)
    result = units_of(benchmark, root)[2].folder / 'run' / 'result.json'
    result.write_text(result.read_text())  # copied: the file has another time, its row another name
    for path in (root / 'rows').iterdir():
        if '"seed": 1' in path.read_text():
            path.write_text('{')
    _work(benchmark, root)
    assert _rows(root) == want


@pytest.mark.parametrize('how', ['gone', 'empty', 'torn', 'altered'])
def test_a_lost_choice_is_searched_again(benchmark, tmp_path, stood_in, how):
    root = tmp_path / 'all'
    _work(benchmark, root)
    want = _rows(root)
    search, _, second = units_of(benchmark, root)
    path = search.folder / 'run' / 'chosen.json'
    if how == 'altered':
        path.write_text(path.read_text().replace('"lr": 0.01', '"lr": 0.02'))
    else:
        DAMAGES[how](path)
    shutil.rmtree(second.folder)
    said, states = _work(benchmark, root)
    assert states == ['done'] * 3
    assert 'chosen.json is missing or damaged' in said[0]
    assert _rows(root) == want


@pytest.mark.parametrize('how', ['gone', 'torn'])
def test_a_lost_result_is_made_again_from_its_directory(benchmark, tmp_path, stood_in, how):
    root = tmp_path / 'all'
    _work(benchmark, root)
    want = _rows(root)
    folder = units_of(benchmark, root)[1].folder / 'run'
    (folder / 'checkpoints').mkdir()  # stays, so that a run goes on from it
    DAMAGES[how](folder / 'result.json')
    for path in (root / 'rows').iterdir():
        path.unlink()
    said, states = _work(benchmark, root)
    assert states == ['done'] * 3
    assert 'result.json is missing or damaged' in said[0]
    assert (folder / 'checkpoints').is_dir()
    assert _rows(root) == want


@pytest.mark.parametrize('how', ['the row', 'why'])
def test_a_failure_is_told_again_or_found_again(benchmark, tmp_path, stood_in, monkeypatch, how):
    def failing(config, workdir, quiet):
        raise ValueError('no')

    monkeypatch.setattr(worker, 'run', failing)
    root = tmp_path / 'all'
    assert _work(benchmark, root)[1] == ['done', 'failed', 'failed']
    files = sorted(path.name for path in (root / 'rows').iterdir())
    if how == 'the row':
        shutil.rmtree(root / 'rows')
    else:
        (units_of(benchmark, root)[1].folder / 'failed' / 'failed.json').write_text('{')
    said, states = _work(benchmark, root)
    assert states == ['done', 'failed', 'failed']
    after = sorted(path.name for path in (root / 'rows').iterdir())
    if how == 'the row':
        assert after == files
    else:
        assert any(line.endswith('seed 0 failed: ValueError: no') for line in said)
    assert _work(benchmark, root)[0] == []


def test_a_real_search_chooses_the_same_again_without_training(benchmark, tmp_path, monkeypatch):
    root = tmp_path / 'all'
    search = units_of(benchmark, root)[0]
    worker = Worker(benchmark, root, quiet=True, say=lambda _: None)
    assert worker._advance(search) == 'worked'
    path = search.folder / 'run' / 'chosen.json'
    before = json.loads(path.read_text())
    path.write_text('{"name"')
    assert chosen_of(path.parent, benchmark.config(search.task)) is None
    monkeypatch.setattr(
        'jax_prompt.train.members.make_steps', lambda *_: pytest.fail('trained again')
    )
    again = Worker(benchmark, root, quiet=True, say=lambda _: None)
    assert again._advance(search) == 'worked'
    assert json.loads(path.read_text()) == before
    assert chosen_of(path.parent, benchmark.config(search.task))['lr'] == before['lr']
