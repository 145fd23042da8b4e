"""Checkpoints know whether they are whole, and a result which of them it measured."""

import json
import shutil
import subprocess
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from small_job import linear_head, linear_job, two_classes

from jax_prompt.core.checksum import SUMS, hash_tree
from jax_prompt.core.devices import num_cores
from jax_prompt.core.owner import host
from jax_prompt.runs.prompts import read_prototypes
from jax_prompt.runs.restore import restore
from jax_prompt.runs.run import run
from jax_prompt.search.population import fit_population
from jax_prompt.train.checkpoint import Checkpoints, DamagedCheckpoint
from jax_prompt.train.log import Progress, read_metrics
from jax_prompt.train.loop import fit
from jax_prompt.train.optim import Hyper
from jax_prompt.weights.sealed import write_sealed

TREE = {'a': np.arange(300, dtype=np.float32), 'b': {'c': np.int32(7)}}


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """A folder with checkpoints of steps 5 and 10."""
    folder = tmp_path_factory.mktemp('written') / 'checkpoints'
    checkpoints = Checkpoints(folder)
    for step in (5, 10):
        checkpoints.save(step, {**TREE, 'a': TREE['a'] + step}, {'loss': step / 3})
    checkpoints.close()
    return folder


def _flip(path, place=0.5):
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 4
    path.write_bytes(data)


def _largest(folder):
    files = [path for path in (folder / 'tree').rglob('*') if path.is_file()]
    return max(files, key=lambda path: (path.stat().st_size, path))


def test_the_hash_tells_values_types_shapes_paths_and_what_is_saved_beside():
    base = hash_tree(TREE, {'loss': 0.1})
    assert hash_tree(jax.tree.map(np.copy, TREE), {'loss': 0.1}) == base
    flipped = TREE['a'].copy()
    flipped.view(np.uint8)[17] ^= 1
    others = (
        {**TREE, 'a': flipped},
        {**TREE, 'a': TREE['a'].view(np.int32)},
        {**TREE, 'a': TREE['a'].reshape(2, 150)},
        {'d': TREE['a'], 'b': TREE['b']},
    )
    hashes = {
        base,
        hash_tree(TREE, {'loss': 0.2}),
        *(hash_tree(one, {'loss': 0.1}) for one in others),
    }
    assert len(hashes) == 6
    assert hash_tree(Hyper(1.0, 2.0, 3.0)) == hash_tree(Hyper(1.0, 2.0, 3.0)._asdict())
    half = {'x': jax.numpy.ones(3, jax.numpy.bfloat16)}
    assert hash_tree(half) != hash_tree({'x': jax.numpy.zeros(3, jax.numpy.bfloat16)})


def test_any_flipped_bit_of_what_was_saved_is_refused(written, tmp_path, capfd):
    work, rng = tmp_path / 'work', np.random.default_rng(0)
    shutil.copytree(written, work)
    checkpoints, folder = Checkpoints(work), work / '10'
    files = [p for part in ('tree', 'info') for p in (folder / part).rglob('*') if p.is_file()]
    for path in [file for file in files if file.stat().st_size]:
        before = path.read_bytes()
        _flip(path, rng.random())
        with pytest.raises(
            DamagedCheckpoint, match=r'checkpoints?.*/10 is damaged: .*not what was'
        ) as error:
            checkpoints.restore(TREE)
        assert path.name in str(error.value)
        path.write_bytes(before)
        got, info = checkpoints.restore(TREE)
        np.testing.assert_array_equal(got['a'], TREE['a'] + 10)
        assert info == {'loss': 10 / 3}
    checkpoints.close()
    assert 'Event loop' not in ''.join(capfd.readouterr())


@pytest.mark.parametrize('sums', ['gone', 'torn'])
def test_the_hash_of_the_values_tells_where_the_checksums_are_lost(written, tmp_path, sums):
    work = tmp_path / 'work'
    shutil.copytree(written, work)
    path = work / '10' / SUMS
    path.unlink() if sums == 'gone' else path.write_text('{"tree')
    checkpoints = Checkpoints(work)
    assert checkpoints.restore(TREE)[1] == {'loss': 10 / 3}
    info = work / '10' / 'info' / 'metadata'
    info.write_text(info.read_text().replace('3.3', '4.3'))
    with pytest.raises(DamagedCheckpoint, match='its values are not those that were written'):
        checkpoints.restore(TREE)
    info.write_text(json.dumps({'info': {}}))
    with pytest.raises(DamagedCheckpoint, match='its info has no hash'):
        checkpoints.restore(TREE)
    info.write_text(json.dumps({'loss': 1.0}))  # of a version without hashes
    assert checkpoints.restore(TREE)[1] == {'loss': 1.0}
    info.write_text('{')
    with pytest.raises(DamagedCheckpoint, match='can not be read: JSONDecodeError'):
        checkpoints.restore(TREE)
    checkpoints.close()


def test_what_a_kill_left_of_a_save_goes_with_the_next_one(written, tmp_path, caplog):
    work = tmp_path / 'work'
    shutil.copytree(written, work)
    left = [work / f'{step}.orbax-checkpoint-tmp' for step in (12, 15)]
    for folder in left:
        (folder / 'tree').mkdir(parents=True)
    checkpoints = Checkpoints(work)
    assert checkpoints.restore(TREE)[1] == {'loss': 10 / 3}
    assert all(folder.exists() for folder in left)  # reading changes nothing: another may write
    checkpoints.save(15, TREE, {'loss': 5.0})
    assert not any(folder.exists() for folder in left) and checkpoints.steps() == [10, 15]
    left[0].mkdir()
    checkpoints.restore_or_put_aside(TREE, 15)  # of a training that goes on and may save no more
    assert not left[0].exists() and not caplog.records
    checkpoints.close()


def test_a_kill_while_a_checkpoint_is_removed_leaves_no_part_of_one(written, tmp_path, monkeypatch):
    work = tmp_path / 'work'
    shutil.copytree(written, work)
    checkpoints = Checkpoints(work)

    def half(folder):
        _largest(folder).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, 'rmtree', half)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(15, TREE, {'loss': 5.0})
    checkpoints.close()
    again = Checkpoints(work)
    assert again.steps() == [10, 15]
    assert again.restore_or_put_aside(TREE, 15)[1] == {'loss': 5.0}
    assert sorted(path.name for path in work.iterdir()) == ['10', '15']
    again.close()


def test_an_earlier_step_that_is_saved_stays_beside_later_ones(written, tmp_path):
    work = tmp_path / 'work'
    shutil.copytree(written, work)
    checkpoints = Checkpoints(work)
    seen = []
    for step in (2, 4, 6, 12):
        checkpoints.save(step, TREE, {})
        seen.append(checkpoints.steps())
    assert seen == [[2, 5, 10], [2, 4, 5, 10], [5, 6, 10], [10, 12]]
    checkpoints.close()


@pytest.mark.parametrize(
    'text', [None, b'', b'\x1b[31m\xff', b'[]', b'{"init_timestamp_nsecs": "x"}']
)
def test_what_orbax_notes_beside_a_checkpoint_may_be_lost(written, tmp_path, text, caplog):
    work = tmp_path / 'work'
    shutil.copytree(written, work)
    for step in ('5', '10'):
        note = work / step / '_CHECKPOINT_METADATA'
        note.unlink() if text is None else note.write_bytes(text)
    checkpoints = Checkpoints(work)
    assert checkpoints.restore_or_put_aside(TREE, 10)[1] == {'loss': 10 / 3}
    assert not caplog.records
    checkpoints.close()


def test_checksums_that_a_kill_prevented_are_written_when_training_goes_on(written, tmp_path):
    work = tmp_path / 'work'
    shutil.copytree(written, work)
    before = (work / '10' / SUMS).read_bytes()
    ended = subprocess.Popen(['true'])
    ended.wait()
    part = work / '10' / f'{SUMS}.{host()}-{ended.pid}-aa.part'
    (work / '10' / SUMS).rename(part)
    checkpoints = Checkpoints(work)
    checkpoints.restore_or_put_aside(TREE, 10)
    checkpoints.close()
    assert (work / '10' / SUMS).read_bytes() == before and not part.exists()


def test_a_damaged_checkpoint_is_put_aside_and_one_that_comes_again_written_anew(written, tmp_path):
    work = tmp_path / 'work'
    shutil.copytree(written, work)
    checkpoints = Checkpoints(work)
    assert checkpoints.put_aside(10) == work / 'damaged' / '10'
    assert (checkpoints.latest(), checkpoints.steps()) == (5, [5])
    with pytest.raises(FileNotFoundError, match='of step 10'):
        checkpoints.restore(TREE, 10)
    checkpoints.save(10, TREE, {})
    _flip(_largest(work / '10'))
    checkpoints.save(10, TREE, {'again': 1})
    assert checkpoints.restore(TREE)[1] == {'again': 1}
    assert checkpoints.put_aside(10) == work / 'damaged' / '10_2'
    checkpoints.close()
    again = Checkpoints(work)
    assert again.steps() == [5]
    again.close()


@pytest.fixture(scope='module')
def head():
    """A linear head on 8 numbers, four steps an epoch: its program, its weights, its data."""
    program, trainable = linear_head()
    return replace(program, epochs=3, steps_per_epoch=4), trainable, two_classes(13, apart=0.0)


def _job(head, folder, lr=1e-2, **changes):
    changes |= {'eval_batch_size': 13, 'checkpoint_seconds': 0.0}
    return linear_job(f'lr_{lr:g}', folder, head[2], head[0], lr, **changes)


def _rows(path):
    kept = ('stage', 'epoch', 'step', 'loss', 'val_loss')
    return sorted([row[name] for name in kept] for row in read_metrics(path))


def _equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize('damaged', [(8,), (8, 4)])
def test_training_goes_on_from_the_newest_whole_checkpoint_to_the_same_bits(
    head, tmp_path, damaged, capsys
):
    whole = fit(_job(head, tmp_path / 'whole'))
    job = _job(head, tmp_path / 'run')
    fit(replace(job, until=2))
    for step in damaged:
        _flip(_largest(job.directory / str(step)))
    got = fit(replace(job, quiet=False))
    said = capsys.readouterr().out
    for step in damaged:
        assert f'lr_0.01/{step} is damaged' in said
        assert (job.directory / 'damaged' / str(step)).is_dir()
    assert f'goes on from {"step 4" if len(damaged) == 1 else "the start"}' in said
    assert ' -' not in said
    assert ', 0 s left' in said
    _equal((got.trainable, got.best), (whole.trainable, whole.best))
    assert got.step == whole.step == 12
    assert got.cores == (num_cores(),)
    again = fit(job)  # trains nothing on these cores
    assert again.cores == got.cores
    assert _rows(job.metrics) == _rows(tmp_path / 'whole' / 'metrics.jsonl')


def test_a_population_goes_on_from_what_all_members_have_whole(head, tmp_path):
    def members(folder, **changes):
        return [_job(head, folder, lr, **changes) for lr in (1e-2, 1e-3)]

    whole = fit_population(members(tmp_path / 'whole'))
    fit_population(members(tmp_path / 'run', until=2))
    second = tmp_path / 'run' / 'lr_0.001'
    _flip(_largest(second / '8'))
    got = fit_population(members(tmp_path / 'run'))
    for mine, theirs in zip(got, whole, strict=True):
        _equal(mine.fit.trainable, theirs.fit.trainable)
    assert _rows(tmp_path / 'run/metrics.jsonl') == _rows(tmp_path / 'whole/metrics.jsonl')
    assert [path.name for path in (second / 'damaged').iterdir()] == ['8']


def test_time_left_is_never_less_than_none(capsys):
    progress = Progress('x', 10)
    progress.start(0)
    progress.done = 12
    progress.note('epoch 1/1')
    assert ', 0 s left' in capsys.readouterr().out


def test_a_result_names_what_it_measured_and_nothing_else_is_evaluated(make_config, tmp_path):
    folder = tmp_path / 'run'
    config = make_config(method='spt_shallow', train_prompts=False)
    result = run(config, folder, quiet=True)
    assert (result['checkpoint_step'], len(result['trained_sha256'])) == (6, 64)
    assert result['machine']['cores'] == [num_cores()]
    measured = folder / 'checkpoints' / '6'
    refused = partial(pytest.raises, ValueError)
    assert restore(folder).evaluate('test')['accuracy'] == result['test_accuracy']

    kept = folder / 'kept'
    measured.rename(kept)
    with refused(match=r'checkpoints/6 is missing.*Remove result\.json'):
        restore(folder)
    kept.rename(measured)
    largest = _largest(measured)
    before = largest.read_bytes()
    _flip(largest)
    with refused(match=r'checkpoints/6 is damaged.*Remove result\.json'):
        restore(folder)
    assert measured.is_dir()  # an evaluation moves nothing
    largest.write_bytes(before)

    prototypes = folder / 'prototypes.safetensors'
    own, (prompts, report) = prototypes.read_bytes(), read_prototypes(prototypes, '')
    write_sealed(prototypes, 'prompts', {'prompts': prompts + 1}, report)
    with refused(match='other weights than those that'):
        restore(folder)
    prototypes.unlink()
    with pytest.raises(FileNotFoundError, match=r'prototypes\.safetensors is missing: remove res'):
        restore(folder)
    prototypes.write_bytes(own)

    path = folder / 'result.json'
    path.write_text(json.dumps({k: v for k, v in result.items() if k != 'trained_sha256'}))
    with refused(match='does not say which checkpoint'):
        restore(folder)
    # The way out that the messages name.
    _flip(_largest(measured))
    path.unlink()
    again = run(config, folder, quiet=True)
    assert again['trained_sha256'] == result['trained_sha256']
    assert restore(folder).evaluate('test')['loss'] == result['test_loss']
