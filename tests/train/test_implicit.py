"""Runs with inner solves: diagnostics, raw features, unattainable tolerances, skipped steps."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_job import linear_head, linear_job, two_classes

from jax_prompt.runs.restore import restore
from jax_prompt.runs.run import run
from jax_prompt.train.job import Data, NonFiniteLoss, Unconverged
from jax_prompt.train.ledger import add_steps, epoch_means, too_few_converged
from jax_prompt.train.log import read_metrics
from jax_prompt.train.loop import fit
from jax_prompt.train.optim import Hyper
from jax_prompt.train.step import take_step

TUNER = {'channels': 4, 'width': 8}


@pytest.fixture
def make_config(make_config):
    """Runs on images of half their side: a quarter of the pixels that P1 settles on."""
    return partial(make_config, image_size=16)


def _rows(folder):
    return read_metrics(folder / 'metrics.jsonl')


def test_a_run_reports_its_solves_and_its_critical_share(make_config, tmp_path):
    config = make_config(method='lion', tuner=TUNER, transform={'tau': 0.4})
    result = run(config, tmp_path / 'run', quiet=True)
    p2 = 128 * 8 + 8 + 2 * 64 + 8 + 8 * 128 + 128 + 2
    p1 = 2 * 9 * 3 * 4 + 4 + 3 + 3 + 2
    assert result['num_trainable'] == p1 + p2 + 129 * 2
    assert len(_rows(tmp_path / 'run')) == 2
    for row in _rows(tmp_path / 'run'):
        assert row['critical_share'] == pytest.approx(0.6, abs=1e-3)
        for block in ('p1', 'p2'):
            for way in ('forward', 'backward'):
                name = f'{block}_{way}'
                assert row[f'{name}_converged'] == 1.0
                assert 1.0 <= row[f'{name}_steps'] <= 10.0
                assert 0.0 < row[f'{name}_residual'] <= row[f'{name}_residual_worst'] <= 1e-3
    got = restore(tmp_path / 'run').evaluate('test')
    assert got['accuracy'] == result['test_accuracy']
    assert got['loss'] == pytest.approx(result['test_loss'], rel=1e-4)


@pytest.mark.parametrize('options', [{}, {'search': True, 'search_lrs': (1e-2,)}])
def test_cached_raw_features_give_the_result_of_no_cache(make_config, tmp_path, options):
    one = make_config(method='lion', tuner=TUNER, epochs=1, **options)
    two = make_config(method='lion', tuner=TUNER, epochs=1, input={'cache_mb': 0.0}, **options)
    cached, plain = (run(c, tmp_path / n, quiet=True) for c, n in ((one, 'a'), (two, 'b')))
    for mine, theirs in zip(_rows(tmp_path / 'a'), _rows(tmp_path / 'b'), strict=True):
        assert mine['loss'] == pytest.approx(theirs['loss'], rel=1e-4)
    assert cached['test_loss'] == pytest.approx(plain['test_loss'], rel=1e-4)


def test_random_augmentation_and_streams_compute_raw_features_in_the_step(make_config, tmp_path):
    options = {'method': 'lion', 'tuner': TUNER, 'epochs': 1}
    flipped = make_config(augment={'flip': True}, **options)
    assert run(flipped, tmp_path / 'flip', quiet=True)['test_accuracy'] is not None
    a = run(make_config(**options), tmp_path / 'a', quiet=True)
    b = run(make_config(input={'budget_mb': 1e-6}, **options), tmp_path / 'b', quiet=True)
    assert b['test_loss'] == pytest.approx(a['test_loss'], rel=1e-3)


UNATTAINABLE = {'rtol': 0.0, 'max_iter': 3, 'block': 'tutorial'}


def test_a_tolerance_that_cant_be_met_is_said_and_the_run_goes_on(make_config, tmp_path, capsys):
    config = make_config(method='lion', tuner={**TUNER, **UNATTAINABLE})
    result = run(config, tmp_path / 'run')
    said = capsys.readouterr().out
    assert 'warning: train: epoch 1: less than 0.95 of the solves converged:' in said
    assert 'p1_forward_converged 0.000' in said
    assert 'tuner.max_iter' in said
    assert result['test_accuracy'] is not None
    assert _rows(tmp_path / 'run')[0]['p1_forward_converged'] == 0.0
    assert np.isfinite(_rows(tmp_path / 'run')[1]['loss'])


def test_or_it_stops_the_run_which_keeps_its_checkpoint(make_config, tmp_path):
    engine = {'num_devices': 1, 'eval_batch_size': 8, 'on_unconverged': 'stop'}
    options = {'method': 'lion', 'tuner': {**TUNER, **UNATTAINABLE}, 'engine': engine}
    for epoch in (1, 2):  # started again, it goes on after the epoch that it kept
        with pytest.raises(Unconverged, match=rf'train: epoch {epoch}: .* kept, step {3 * epoch}'):
            run(make_config(**options), tmp_path / 'run', quiet=True)
    assert not (tmp_path / 'run' / 'result.json').exists()
    assert len(_rows(tmp_path / 'run')) == 2
    with pytest.raises(NonFiniteLoss, match='every candidate of'):
        searched = make_config(search=True, search_lrs=(1e-2,), **options)
        run(searched, tmp_path / 'search', quiet=True)


@pytest.fixture
def job(tmp_path):
    """A linear job on stored features, of which two examples can be spoiled."""
    program = replace(linear_head()[0], epochs=2, steps_per_epoch=3, skip_nonfinite=True)
    return linear_job('train', tmp_path, two_classes(12), program, lr=0.1, val=None)


def test_a_step_that_is_not_finite_can_be_skipped(job):
    features = job.train.data.copy()
    features[5] = np.nan
    got = fit(replace(job, train=Data(features, job.train.labels)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got.trainable))
    rows = read_metrics(job.metrics)
    assert [row['skipped_steps'] for row in rows] == [1, 1]
    assert rows[1]['loss'] < rows[0]['loss']
    stops = replace(job.program, skip_nonfinite=False)
    again = replace(job, program=stops, directory=job.directory / 'stop')
    with pytest.raises(NonFiniteLoss):
        fit(replace(again, train=Data(features, job.train.labels)))


def test_an_epoch_of_skipped_steps_is_an_error(job):
    bad = Data(np.full_like(job.train.data, np.nan), job.train.labels)
    with pytest.raises(NonFiniteLoss, match='every step of epoch 1 was skipped'):
        fit(replace(job, train=bad))


def test_a_skipped_step_leaves_no_trace(job):
    program, hyper = job.program, Hyper(*map(jnp.float32, job.hyper))
    x, labels, ones = jnp.asarray(job.train.data[:4]), jnp.zeros(4, jnp.int32), jnp.ones(4)
    state = program.init(job.trainable)
    state, _ = take_step(program, state, {}, x, labels, ones, hyper, jax.random.key(0))
    after, seen = take_step(program, state, {}, x * jnp.nan, labels, ones, hyper, jax.random.key(0))
    assert float(seen['count']) == float(seen['loss']) == 0.0
    assert int(after.step) == int(state.step) + 1
    jax.tree.map(np.testing.assert_array_equal, after.trainable, state.trainable)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, state.opt_state)


def test_epochs_average_over_examples_and_keep_the_worst():
    def steps(loss, count, share, worst):
        names = ('loss', 'count', 'correct', 'grad_norm', 'p_converged', 'p_residual_worst')
        values = (loss, count, count, np.ones(len(loss)), share, worst)
        return {name: np.array(value) for name, value in zip(names, values, strict=True)}

    sums = add_steps({}, steps([1.0, 2.0], [4, 4], [1.0, 1.0], [0.1, 0.5]), 1.0)
    sums = add_steps(sums, steps([4.0, 0.0], [2, 0], [0.5, 0.0], [0.2, 0.0]), 1.0)
    row = epoch_means(sums)
    assert row['loss'] == pytest.approx(2.0)
    assert row['p_converged'] == pytest.approx(0.9)
    assert (row['p_residual_worst'], row['skipped_steps']) == (0.5, 1)
    assert row['images_per_second'] == 5.0
    assert too_few_converged(row, 0.9) is None
    assert 'p_converged 0.900' in too_few_converged(row, 0.95)
