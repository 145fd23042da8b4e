import itertools
import os
from dataclasses import replace

import jax
import numpy as np
import pytest

from jax_prompt.runs.prompts import read_prototypes
from jax_prompt.runs.restore import restore
from jax_prompt.runs.run import run
from jax_prompt.train import ledger, loop
from jax_prompt.train.snapshots import find_snapshots, load_snapshot
from jax_prompt.weights import sealed


def _engine(**changes):
    base = {'num_devices': 1, 'checkpoint_seconds': 0.0, 'eval_batch_size': 8}
    return base | {'snapshot_every': 1} | changes


def _trees(folder, like):
    return {epoch: load_snapshot(path, like) for epoch, path in find_snapshots(folder).items()}


def test_snapshots_run_from_the_initialisation_to_what_is_tested(make_config, tmp_path):
    calibration = {'construction': 'mean', 'batch_size': 8}
    config = make_config(method='spt_deep', calibration=calibration, epochs=3, engine=_engine())
    run(config, tmp_path / 'run', quiet=True)
    done = restore(tmp_path / 'run')
    trees = _trees(tmp_path / 'run' / 'checkpoints', done.trainable)
    assert list(trees) == [0, 1, 2, 3]
    prompts, _ = read_prototypes(tmp_path / 'run' / 'prototypes.safetensors', '')
    np.testing.assert_array_equal(trees[0]['tuner']['layers']['prompts'], prompts)
    jax.tree.map(np.testing.assert_array_equal, trees[3], done.trainable)
    kernels = [tree['head']['kernel'] for tree in trees.values()]
    assert all(np.abs(a - b).max() > 0 for a, b in itertools.pairwise(kernels))


@pytest.mark.parametrize(('every', 'epochs'), [(0, []), (2, [0, 2, 3])])
def test_snapshots_come_as_often_as_asked_and_at_both_ends(make_config, tmp_path, every, epochs):
    config = make_config(method='linear', epochs=3, engine=_engine(snapshot_every=every))
    run(config, tmp_path / 'run', quiet=True)
    assert list(find_snapshots(tmp_path / 'run' / 'checkpoints')) == epochs


def test_a_snapshot_holds_the_average_where_one_is_kept(make_config, tmp_path):
    optim = {'name': 'adamw', 'ema_decay': 0.5}
    run(make_config(engine=_engine(), optim=optim), tmp_path / 'run', quiet=True)
    done = restore(tmp_path / 'run')
    trees = _trees(tmp_path / 'run' / 'checkpoints', done.trainable)
    jax.tree.map(np.testing.assert_array_equal, trees[2], done.trainable)


def test_a_candidate_that_is_tested_has_its_own(make_config, tmp_path):
    config = make_config(
        method='linear', search=True, search_lrs=(1e-2,), refit=False, engine=_engine()
    )
    result = run(config, tmp_path / 'run', quiet=True)
    assert list(find_snapshots(tmp_path / 'run' / result['checkpoint'])) == [0, 1, 2]


def _killed(monkeypatch, target, name, when):
    """Lets `target.name` raise at its call number `when`, before it does anything."""
    real, calls = getattr(target, name), []

    def dying(*args):
        calls.append(args)
        if len(calls) == when:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(target, name, dying)


@pytest.mark.parametrize('name', ['take_snapshot', 'append_metrics'])
def test_a_resumed_run_has_the_same_snapshots(make_config, tmp_path, monkeypatch, name):
    config = make_config(epochs=3, engine=_engine())
    run(config, tmp_path / 'whole', quiet=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        target = loop if name == 'take_snapshot' else ledger
        _killed(patch, target, name, 3)  # at the second or third epoch's end, before its checkpoint
        run(config, tmp_path / 'killed', quiet=True)
    run(config, tmp_path / 'killed', quiet=True)
    like = restore(tmp_path / 'whole').trainable
    whole, killed = (_trees(tmp_path / one / 'checkpoints', like) for one in ('whole', 'killed'))
    assert list(whole) == list(killed) == [0, 1, 2, 3]
    jax.tree.map(np.testing.assert_array_equal, whole, killed)


def test_half_a_file_is_never_taken_for_a_snapshot(make_config, tmp_path, monkeypatch):
    config = make_config(method='linear', epochs=1, engine=_engine())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sealed, 'write_safetensors', _half)
        run(config, tmp_path / 'run', quiet=True)
    folder = tmp_path / 'run' / 'checkpoints'
    assert os.listdir(folder / 'snapshots') == []
    assert find_snapshots(folder) == {}
    run(config, tmp_path / 'run', quiet=True)
    assert list(_trees(folder, restore(tmp_path / 'run').trainable)) == [0, 1]


def _half(file, *_, **__):
    file.write(b'{')
    raise KeyboardInterrupt


def test_a_snapshot_of_another_run_is_refused(make_config, tmp_path):
    config = make_config(epochs=1, engine=_engine())
    for name, one in (('two', config), ('three', replace(config, num_prompts=3))):
        run(one, tmp_path / name, quiet=True)
    path = find_snapshots(tmp_path / 'three' / 'checkpoints')[1]
    with pytest.raises(ValueError, match=r'prompts is \(6, 3, 128\), wanted \(6, 2, 128\)'):
        load_snapshot(path, restore(tmp_path / 'two').trainable)


def test_a_negative_interval_is_refused(make_config):
    with pytest.raises(ValueError, match='snapshot_every is -1; at least 0'):
        make_config(engine=_engine(snapshot_every=-1))
