import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from small_job import linear_head, linear_job

from jax_prompt.runs.config import resolve
from jax_prompt.runs.restore import restore
from jax_prompt.runs.run import run
from jax_prompt.search import search as searches
from jax_prompt.search import sizing
from jax_prompt.search.search import Candidate, Search
from jax_prompt.search.sizing import Population, choose_size
from jax_prompt.train.job import Data, NonFiniteLoss
from jax_prompt.train.log import read_metrics
from jax_prompt.train.members import Members

LRS = (1e-4, 3e-3, 1e-2, 3e-2)


@pytest.fixture(scope='module')
def parts():
    """A linear head on features of 8 numbers, of which the first tells the classes apart."""
    program, trainable = linear_head()
    program = replace(program, epochs=4, steps_per_epoch=8)
    rng, data = np.random.default_rng(0), []
    for count in (64, 40):
        labels = (np.arange(count) % 2).astype(np.int32)
        noise = rng.normal(size=(count, 8)).astype(np.float32)
        data.append(Data(noise + np.float32(1.5) * (labels[:, None] - 0.5), labels))
    return program, trainable, data


def _jobs(parts, folder, lrs=LRS):
    program, _, (train, val) = parts
    changes = {'val': val, 'batch_size': 8, 'checkpoint_seconds': 0.0}
    return {
        f'lr_{lr:g}': linear_job(f'search/lr_{lr:g}', folder, train, program, lr, **changes)
        for lr in lrs
    }


def _search(parts, folder, options, lrs=LRS):
    folder.mkdir(exist_ok=True)
    said = []
    jobs = _jobs(parts, folder, lrs)
    candidates = {name: Candidate(job) for name, job in jobs.items()}
    return Search(candidates, folder / 'search', options, said.append).run(), said


def _row(folder, name):
    return json.loads((folder / 'search' / name / 'result.json').read_text())


def test_side_by_side_and_one_after_the_other_choose_alike(parts, tmp_path):
    solo, _ = _search(parts, tmp_path / 'solo', Population(size=1))
    beside, said = _search(parts, tmp_path / 'beside', Population(size=8))
    assert said[0].startswith('search: 4 candidates, 4 at a time')
    pairs, _ = _search(parts, tmp_path / 'pairs', Population(size=3))
    plan = json.loads((tmp_path / 'pairs/search/plan.json').read_text())
    assert plan['members'] == 2  # two groups of one size
    for other in (beside, pairs):
        assert other.name == solo.name
        for a, b in zip(other.rows, solo.rows, strict=True):
            assert {**a, 'seconds': 0} == {**b, 'seconds': 0}
    assert len({row['val_accuracy'] for row in solo.rows}) > 1
    assert solo.row['val_accuracy'] == max(row['val_accuracy'] for row in solo.rows)


@pytest.mark.parametrize('size', [1, 8])
def test_the_worse_half_is_dropped_at_each_rung_and_reported(parts, tmp_path, size):
    whole, _ = _search(parts, tmp_path / 'whole', Population(size=1))
    found, said = _search(parts, tmp_path / 'run', Population(size=size, rungs=(1, 2)))
    rows = {row['name']: row for row in found.rows}
    epochs = {name: 0 for name in rows}
    for row in read_metrics(tmp_path / 'run' / 'metrics.jsonl'):
        epochs[row['stage'].partition('/')[2]] += 1
    assert sorted(epochs.values()) == [1, 1, 2, 4]
    assert epochs[found.name] == 4
    dropped = {n: row['status'] for n, row in rows.items() if row['status'] != 'done'}
    assert len(dropped) == 3
    assert all(rows[name]['val_accuracy'] is None for name in dropped)
    assert sum('dropped at epoch 1 (rank' in status for status in dropped.values()) == 2
    assert 'search: 1 of 2 go on after epoch 2' in said
    # Rank and accuracy at the first rung are those of whole trainings after that epoch.
    first = {
        row['stage'].partition('/')[2]: row['val_accuracy']
        for row in read_metrics(tmp_path / 'whole' / 'metrics.jsonl')
        if row['epoch'] == 1
    }
    order = sorted(LRS, key=lambda lr: (-first[f'lr_{lr:g}'], lr))
    for rank in (3, 4):
        name = f'lr_{order[rank - 1]:g}'
        val = 100 * first[name]
        assert rows[name]['status'] == f'dropped at epoch 1 (rank {rank} of 4, val {val:.2f} %)'
    # The schedule stays that of all epochs: the survivor is what it is without rungs.
    same = next(row for row in whole.rows if row['name'] == found.name)
    assert found.row['val_accuracy'] == same['val_accuracy']


@pytest.mark.parametrize('size', [1, 8])
def test_a_killed_search_goes_on_to_the_same_rows(parts, tmp_path, monkeypatch, size):
    options = Population(size=size, rungs=(2,))
    lrs = (*LRS, 3e38)
    want, _ = _search(parts, tmp_path / 'whole', options, lrs)
    writes, write = [], searches.write_json

    class Kill(Exception):
        pass

    def dying(path, value):
        writes.append(path)
        if len(writes) in (3, 5, 8):
            raise Kill
        write(path, value)

    monkeypatch.setattr(searches, 'write_json', dying)
    for _ in range(3):
        with pytest.raises(Kill):
            _search(parts, tmp_path / 'run', options, lrs)
    got, _ = _search(parts, tmp_path / 'run', options, lrs)
    assert got.name == want.name
    jax.tree.map(np.testing.assert_array_equal, got.fit.trainable, want.fit.trainable)
    for a, b in zip(got.rows, want.rows, strict=True):
        assert {**a, 'seconds': 0} == {**b, 'seconds': 0}
    assert 'learning rate 3e+38' in got.rows[-1]['status']


def _renamed(value):
    """Yields copies of a JSON value with one bit of one name flipped."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for name, part in items:
        if isinstance(part, dict | list):
            for torn in _renamed(part):
                copy = value.copy()
                copy[name] = torn
                yield copy
        if isinstance(value, dict):
            flipped = name[:-1] + chr(ord(name[-1]) ^ 1)
            yield {flipped if key == name else key: other for key, other in value.items()}
        elif isinstance(part, str):
            yield [*value[:name], part[:-1] + chr(ord(part[-1]) ^ 1), *value[name + 1 :]]


def test_a_flipped_bit_in_what_a_search_keeps_is_named_or_changes_nothing(parts, tmp_path):
    options = Population(size=8, rungs=(2,))
    want, _ = _search(parts, tmp_path, options)
    row = tmp_path / 'search' / want.name / 'result.json'
    refused = 0
    for path in (row.parents[1] / 'plan.json', row.parents[1] / 'rungs.json', row):
        whole, kept = path.read_text(), row.read_text()
        for torn in (*_renamed(json.loads(whole)), {'members': 0}):
            if path.name == 'plan.json':  # it is read while a candidate has no row
                row.unlink(missing_ok=True)
            path.write_text(json.dumps(torn))
            try:
                got, _ = _search(parts, tmp_path, options)
            except ValueError as error:
                assert str(path) in str(error) and 'start again' in str(error)
                refused += 1
            else:
                assert {**got.row, 'seconds': 0} == {**want.row, 'seconds': 0}
        path.write_text(whole)
        row.write_text(kept)
    assert refused >= 20


def test_all_candidates_failing_is_an_error_with_their_reasons(parts, tmp_path):
    with pytest.raises(NonFiniteLoss, match=r'every candidate .* failed: .*1e\+38.*3e\+38'):
        _search(parts, tmp_path, Population(size=8), (1e38, 3e38))
    assert _row(tmp_path, 'lr_1e+38')['val_accuracy'] is None


def test_size_comes_from_the_memory_of_the_compiled_program(parts, tmp_path, monkeypatch):
    jobs = list(_jobs(parts, tmp_path, [1e-3 * i for i in range(1, 17)]).values())
    whole = choose_size(jobs, Population(size=16))
    assert whole.members == 16
    # The data counts once: 64 x 8 features and labels.
    assert whole.memory_mb > 64 * 9 * 4 / 1e6
    monkeypatch.setattr(sizing, '_MANY_STEPS', 0)
    budgets = (1.05 * whole.memory_mb, 0.7 * whole.memory_mb, 1e-6)
    sizes = [choose_size(jobs, Population(memory_mb=budget)) for budget in budgets]
    assert sizes[0].members == 16
    assert 1 < sizes[1].members <= 8  # 16 in two groups or more
    assert sizes[1].memory_mb <= budgets[1]
    assert sizes[2].members == 1
    assert 'more than 0 MB' in sizes[2].reason


def test_what_fills_the_processor_trains_one_after_the_other(parts, tmp_path, monkeypatch):
    jobs = list(_jobs(parts, tmp_path).values())
    monkeypatch.setattr(sizing, '_LARGE', 0.0)
    got = choose_size(jobs, Population())
    assert got.members == 1
    assert 'keeps the cores busy' in got.reason
    assert choose_size(jobs, Population(size=4)).members == 4
    monkeypatch.setattr(sizing, '_LARGE', 1e9)
    got = choose_size(jobs, Population())
    assert got.members == 1
    assert 'steps in all' in got.reason
    monkeypatch.setattr(sizing, '_MANY_STEPS', 4 * 4 * jobs[0].program.steps_per_epoch)
    assert choose_size(jobs, Population()).members == 4
    monkeypatch.setattr(sizing, '_SMALL', 0.0)
    for beside, members in ((0.1, 4), (1.0, 1)):  # measured: side by side and alone
        times = {4: 4 * beside, 1: 1.0}
        monkeypatch.setattr(sizing, '_seconds', lambda group, times=times: times[len(group.jobs)])
        assert choose_size(jobs, Population()).members == members
    monkeypatch.undo()
    assert sizing._seconds(Members(jobs)) > 0.0
    assert sizing._seconds(Members(jobs[:1])) > 0.0


def test_options_are_checked(make_config):
    with pytest.raises(ValueError, match='eta is 1; at least 2'):
        Population(eta=1)
    for rungs in ((2,), (1, 1), (0,)):
        with pytest.raises(ValueError, match=r'population\.rungs .* from 1 to 1'):
            make_config(population={'rungs': rungs})
    with pytest.raises(ValueError, match=r'population\.rungs is \(1\.5,\); allowed: int'):
        make_config(population={'rungs': (1.5,)})
    config = make_config(epochs=3, population={'rungs': (1, 2)})
    assert resolve(json.loads(json.dumps(config.to_dict()))) == config


def test_a_run_with_its_search_side_by_side_is_the_solo_one(make_config, tmp_path):
    options = {'method': 'linear', 'search': True, 'epochs': 3}
    grids = {'search_lrs': (1e-6, 1e-4, 1e-2), 'search_head_weight_decays': (0.0, 1e-2)}
    config = make_config(**options, **grids, refit=False, population={'size': 8})
    got = run(config, tmp_path / 'beside', quiet=True)
    plan = json.loads((tmp_path / 'beside/search/plan.json').read_text())
    assert plan['members'] == 6
    assert {row['head_weight_decay'] for row in got['search']} == {0.0, 1e-2}
    assert got['search'][1]['name'] == 'lr_1e-06_hwd_0.01'
    assert got['at_edge'] == {'lr': 'highest'} and got['lr'] == 1e-2
    solo = run(replace(config, population=Population(size=1)), tmp_path / 'solo', quiet=True)
    assert got['checkpoint'] == solo['checkpoint']
    for name in ('lr', 'head_weight_decay', 'val_accuracy', 'test_accuracy'):
        assert got[name] == solo[name]
    assert got['test_loss'] == pytest.approx(solo['test_loss'], rel=1e-5)
    assert restore(tmp_path / 'beside').evaluate('test')['accuracy'] == got['test_accuracy']
