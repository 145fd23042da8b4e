"""Robust training against a numpy restatement of eq. 7-11."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_prompt.tuners.robust import RobustTraining

LR = 0.1


def _trees(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {'kernel': (4, 5), 'bias': (5,), 'gates': (2,)}
    params = {'head': {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}}
    params['tuner'] = {'layers': {'prompts': rng.normal(size=(3, 4)).astype(np.float32)}}
    grads = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), params)
    return params, grads


def _step(robust, params, grads, steps=1, optimizer=None):
    wrapped = robust.wrap(optimizer or optax.sgd(LR), lambda step: LR / (1 + step))
    state = wrapped.init(params)
    for _ in range(steps):
        updates, state = wrapped.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def _member(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _bar(robust, critical):
    if robust.threshold == 'quantile':
        return np.sort(critical)[round(robust.tau * critical.size)]
    return robust.tau * (critical.max() if robust.threshold == 'max' else 1.0)


@pytest.mark.parametrize('threshold', ['quantile', 'absolute', 'max'])
@pytest.mark.parametrize('shrink', [1.0, 0.3])
def test_a_step_is_that_of_the_equations(threshold, shrink):
    robust = RobustTraining(tau=0.4, threshold=threshold, shrink=shrink)
    params, grads = _trees()
    got, state = _step(robust, params, grads)
    leaves = [('head', 'kernel'), ('tuner', 'layers', 'prompts')]

    def pick(tree, path):
        for name in path:
            tree = tree[name]
        return tree

    critical = {path: np.abs(pick(params, path) * pick(grads, path)) for path in leaves}
    bar = _bar(robust, np.concatenate([c.ravel() for c in critical.values()]))
    crucial = 0
    for path, c in critical.items():
        theta, g = pick(params, path), pick(grads, path)
        shrunk = theta - np.sign(theta) * np.minimum(np.abs(theta), LR * shrink)
        np.testing.assert_allclose(
            pick(got, path), np.where(c >= bar, theta - LR * g, shrunk), atol=1e-6
        )
        crucial += int((c >= bar).sum())
    assert 0 < crucial < 32
    assert float(state.critical_share) == pytest.approx(crucial / 32)
    for name in ('bias', 'gates'):
        want = params['head'][name] - LR * grads['head'][name]
        np.testing.assert_allclose(got['head'][name], want, atol=1e-6)


def test_each_member_of_a_population_has_the_bar_of_its_own_quantile():
    robust, members = RobustTraining(tau=0.4), [_trees(seed) for seed in range(3)]
    together = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
    got, state = jax.vmap(partial(_step, robust))(*together)
    for i, member in enumerate(members):
        want, alone = _step(robust, *member)
        assert float(state.critical_share[i]) == float(alone.critical_share)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), _member(got, i), want)


def test_a_quantile_holds_that_share_back():
    params, grads = _trees()
    for tau, crucial in ((0.25, 24), (0.5, 16), (0.75, 8)):
        _, state = _step(RobustTraining(tau=tau), params, grads)
        assert float(state.critical_share) * 32 == pytest.approx(crucial)


def test_without_tau_the_optimizer_is_left_alone():
    optimizer = optax.adam(LR)
    assert RobustTraining().wrap(optimizer, lambda step: LR) is optimizer


def test_a_value_shrinks_to_zero_and_stays():
    params = {'head': {'kernel': jnp.array([[0.25, -0.05, 5.0]])}}
    grads = {'head': {'kernel': jnp.array([[0.0, 0.0, 1.0]])}}
    wrapped = RobustTraining(tau=0.5, shrink=1.0).wrap(optax.sgd(LR), lambda step: LR)
    state = wrapped.init(params)
    for _ in range(4):
        updates, state = wrapped.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params['head']['kernel'], [[0.0, 0.0, 4.6]], atol=1e-6)


def test_weight_decay_does_not_act_where_values_shrink():
    params, grads = _trees()
    decayed = optax.chain(optax.add_decayed_weights(100.0), optax.sgd(LR))
    robust = RobustTraining(tau=0.5, shrink=1.0)
    got, _ = _step(robust, params, grads, optimizer=decayed)
    plain, _ = _step(robust, params, grads)
    moved = np.abs(np.asarray(got['head']['kernel']) - params['head']['kernel'])
    held = np.abs(np.asarray(plain['head']['kernel']) - params['head']['kernel']) <= LR + 1e-6
    assert (moved <= LR + 1e-6).sum() > 0
    assert ((moved <= LR + 1e-6) <= held).all()


def test_the_optimizer_sees_all_raw_gradients():
    params, grads = _trees()
    _, state = _step(RobustTraining(tau=0.9), params, grads, optimizer=optax.adam(LR))
    moments = optax.tree.get(state.inner, 'mu')
    jax.tree.map(lambda m, g: np.testing.assert_allclose(m, 0.1 * g, rtol=1e-5), moments, grads)


def test_all_train_during_the_warmup():
    params, grads = _trees()
    robust = RobustTraining(tau=0.5, warmup_steps=2)
    for steps, share in ((2, 1.0), (3, 0.5)):
        _, state = _step(robust, params, grads, steps)
        assert float(state.critical_share) == share


def test_an_average_remembers_earlier_criticality():
    params, grads = _trees()
    wrapped = RobustTraining(tau=0.5, ema=0.9).wrap(optax.sgd(LR), lambda step: LR)
    state = wrapped.init(params)
    _, state = wrapped.update(grads, state, params)
    _, later = wrapped.update(jax.tree.map(jnp.zeros_like, grads), state, params)
    for path, c in later.criticality.items():
        np.testing.assert_allclose(c, 0.9 * state.criticality[path], rtol=1e-6)
        assert float(c.max()) > 0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'tau': 1.0}, 'tau is 1.0'),
        ({'tau': -0.1}, 'tau is -0.1'),
        ({'threshold': 'mean'}, "threshold is 'mean'"),
        ({'shrink': -1.0}, 'shrink is -1.0'),
        ({'ema': 1.0}, 'ema is 1.0'),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RobustTraining(**options)
