"""A network that gives NaN has no accuracy: it fails, wherever it is evaluated."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_data import encode
from small_job import linear_head, linear_job, two_classes

from jax_prompt.data.kept import Kept
from jax_prompt.evals.classify import NonFiniteLogits, score
from jax_prompt.runs import restore as restoring
from jax_prompt.runs.restore import Restored
from jax_prompt.runs.run import evaluate_once
from jax_prompt.search.population import fit_population
from jax_prompt.search.search import Candidate, Search
from jax_prompt.search.sizing import Population
from jax_prompt.train.job import Data, Fit, NonFiniteLoss
from jax_prompt.train.loop import fit

# A step with the second gives weights near 1e38, with the third infinite ones.
GOOD, BAD, WORSE = 1e-2, 3e38, np.inf


@pytest.fixture(scope='module')
def head():
    """A linear head on 8 numbers: its program of one step, its weights, and 16 examples."""
    return *linear_head(), two_classes(16)


def _job(head, folder, lr, validated=True):
    program, _, data = head
    changes = {'batch_size': 16, 'eval_batch_size': 16, 'checkpoint_seconds': 1e9}
    changes |= {} if validated else {'val': None}
    return linear_job(f'search/lr_{lr:g}', folder, data, program, lr, **changes)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_has_no_class(value):
    logits = np.zeros((5, 3), np.float32)
    assert score(logits, np.zeros(5)).accuracy == 1.0
    logits[3, 2] = value
    with pytest.raises(NonFiniteLogits, match=r'of 1 of 5 examples are not finite.*example 3'):
        score(logits, np.zeros(5))


def test_logits_that_a_float32_loss_can_not_hold_are_refused_and_large_ones_are_not():
    logits = np.array([[2e38, -2e38], [0, 1]], np.float32)
    with pytest.raises(NonFiniteLogits, match=r'example 0'):
        score(logits, np.zeros(2))
    assert np.isfinite(score(logits / 2, np.ones(2)).losses).all()


@pytest.mark.parametrize('lr', [BAD, WORSE])
def test_a_divergence_in_the_last_step_fails_and_leaves_no_checkpoint(head, tmp_path, lr):
    job = _job(head, tmp_path, lr, validated=lr == BAD)
    what = 'val after epoch 1: the logits' if lr == BAD else 'not finite after step 1'
    with pytest.raises(NonFiniteLoss, match=rf'search/lr_.*: .*{what}.*No checkpoint yet'):
        fit(job)
    assert not [path for path in job.directory.iterdir() if path.name.isdigit()]


@pytest.mark.parametrize('lr', [BAD, WORSE])
def test_one_member_fails_and_the_others_of_a_population_go_on(head, tmp_path, lr):
    jobs = [_job(head, tmp_path, one, validated=lr == BAD) for one in (lr, GOOD)]
    bad, good = fit_population(jobs)
    assert (bad.fit, good.status) == (None, 'done')
    assert 'not finite' in bad.status


@pytest.mark.parametrize('size', [1, 2])
def test_a_candidate_of_nan_is_not_chosen(head, tmp_path, size):
    data = head[2]
    # Class 0 alone in val: argmax of NaN would be right everywhere, the good candidate nowhere.
    few = Data(data.data[::2] + 9, data.labels[::2])
    ones = {
        f'lr_{lr:g}': Candidate(replace(_job(head, tmp_path, lr), val=few)) for lr in (GOOD, BAD)
    }
    found = Search(ones, tmp_path / 'search', Population(size=size), lambda _: None).run()
    assert found.name == f'lr_{GOOD:g}'
    assert found.rows[1]['val_accuracy'] is None
    assert 'not finite' in found.rows[1]['status']


def _broken(head):
    program, trainable, _ = head
    return program, jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), trainable)


@pytest.mark.parametrize('has_test', [True, False])
def test_a_run_that_ends_in_nan_has_no_result(head, tmp_path, has_test):
    _, broken = _broken(head)
    split, job = head[2] if has_test else None, _job(head, tmp_path, GOOD)
    with pytest.raises(NonFiniteLoss, match=r'weights of the last epoch: .*16 of 16 examples'):
        evaluate_once(job, Fit(broken, {}), split)
    best = Fit(head[1], broken)
    if has_test:
        with pytest.raises(NonFiniteLoss, match=r'weights of the best validation epoch'):
            evaluate_once(job, best, split)
    else:
        got = evaluate_once(job, best, split)
        assert set(got.values()) == {None}


def test_evaluation_and_prediction_of_a_run_refuse_nan(head, monkeypatch, tmp_path):
    program, broken = _broken(head)
    engine = SimpleNamespace(eval_batch_size=16)
    config = SimpleNamespace(engine=engine, data='x')
    kept = Kept('', ('a', 'b'), {}, {})
    run = Restored(config, {'classes': ['a', 'b']}, program, broken, {}, kept)
    monkeypatch.setattr(restoring, 'open_evaluated', lambda *_: (None, {}))
    monkeypatch.setattr(restoring, 'load_split', lambda *_: Data(head[2].data[:2], np.arange(2)))
    with pytest.raises(NonFiniteLogits, match=r'2 of 2 examples'):
        run.evaluate('test')
    paths = [tmp_path / name for name in ('first.png', 'second.png')]
    for path in paths:
        path.write_bytes(encode(np.zeros((8, 8, 3), np.uint8)))
    with pytest.raises(NonFiniteLogits, match=r'the first is .*first\.png'):
        run.predict(paths)
