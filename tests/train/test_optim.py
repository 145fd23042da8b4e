import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_prompt.train.optim import Hyper, Optim, learning_rate, make_optimizer

PARAMS = {
    'tuner': {'layers': {'prompts': jnp.array([[1.0, -2.0]])}},
    'head': {'kernel': jnp.array([[3.0], [4.0]]), 'bias': jnp.array([5.0])},
}
GRADS = jax.tree.map(lambda x: 0.1 * x + 0.3, PARAMS)


def _run(optim, hyper, steps=3, params=PARAMS, grads=GRADS, epochs=1000, **options):
    optimizer = make_optimizer(optim, hyper, epochs, 10, **options)
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_sgd_is_torchs_with_decay_by_group_and_none_on_the_bias():
    torch = pytest.importorskip('torch', reason='torch is not installed')
    hyper = Hyper(0.1, 0.01, 0.5)
    got = _run(Optim('sgd', momentum=0.9), hyper)
    rates = [float(learning_rate(step, 0.1, Optim(), 1000, 10)) for step in range(3)]

    def torchs(value, grad, decay):
        x = torch.nn.Parameter(torch.from_numpy(np.array(value)))
        optimizer = torch.optim.SGD([x], lr=0.1, momentum=0.9, weight_decay=decay)
        for rate in rates:
            optimizer.param_groups[0]['lr'] = rate
            x.grad = torch.from_numpy(np.array(grad))
            optimizer.step()
        return x.detach().numpy()

    for group, name, decay in (('head', 'kernel', 0.5), ('head', 'bias', 0.0)):
        want = torchs(PARAMS[group][name], GRADS[group][name], decay)
        np.testing.assert_allclose(got[group][name], want, rtol=1e-6)
    prompts = torchs(*(t['tuner']['layers']['prompts'] for t in (PARAMS, GRADS)), 0.01)
    np.testing.assert_allclose(got['tuner']['layers']['prompts'], prompts, rtol=1e-6)


def test_vpts_decay_acts_on_all_leaves_but_the_heads_bias():
    params = {**PARAMS, 'backbone': {'norm': {'scale': jnp.ones(2), 'bias': jnp.ones(2)}}}
    nothing = jax.tree.map(jnp.zeros_like, params)
    optim = Optim('sgd', momentum=0.0, decay_all=True)
    got = _run(optim, Hyper(0.1, 0.5, 0.25), 1, params, nothing)
    assert got['backbone']['norm']['scale'][0] == pytest.approx(1 - 0.1 * 0.5)
    assert got['backbone']['norm']['bias'][0] == pytest.approx(1 - 0.1 * 0.5)
    assert got['head']['kernel'][0, 0] == pytest.approx(3 * (1 - 0.1 * 0.25))
    assert got['head']['bias'][0] == 5.0
    kept = _run(Optim('sgd', momentum=0.0), Hyper(0.1, 0.5, 0.25), 1, params, nothing)
    np.testing.assert_array_equal(kept['backbone']['norm']['bias'], 1.0)


def test_adamw_equals_optax_adamw_a_group():
    got = _run(Optim('adamw'), Hyper(0.1, 0.01, 0.5))
    rate = lambda step: learning_rate(step, 0.1, Optim(), 1000, 10)  # noqa: E731
    for group, name, decay in (('head', 'kernel', 0.5), ('head', 'bias', 0.0)):
        reference = optax.adamw(rate, weight_decay=decay)
        value, grad = PARAMS[group][name], GRADS[group][name]
        state = reference.init(value)
        for _ in range(3):
            update, state = reference.update(grad, state, value)
            value = optax.apply_updates(value, update)
        np.testing.assert_allclose(got[group][name], value, rtol=1e-6)


def test_schedule_warms_up_then_falls_along_a_cosine():
    optim = Optim(warmup_epochs=2.0, min_lr=0.1)
    rate = lambda step: float(learning_rate(step, 1.0, optim, 10, 5))  # noqa: E731
    assert rate(0) == 0.0
    assert rate(5) == pytest.approx(0.5)
    assert rate(10) == pytest.approx(1.0)
    assert rate(30) == pytest.approx(0.1 + 0.9 * 0.5)
    assert rate(50) == pytest.approx(0.1)


def test_schedule_per_epoch_holds_within_an_epoch_and_starts_at_zero():
    optim = Optim(warmup_epochs=2.0, per_epoch=True)
    rates = [float(learning_rate(step, 1.0, optim, 10, 5)) for step in range(15)]
    assert rates[:5] == [0.0] * 5
    assert rates[5:10] == [0.5] * 5
    assert rates[10:] == [1.0] * 5


def test_clipping_bounds_the_norm_over_all_trainables():
    optim = Optim('sgd', momentum=0.0, clip_norm=0.01)
    got = _run(optim, Hyper(1.0, 0.0, 0.0), steps=1)
    moved = jax.tree.map(lambda a, b: a - b, got, PARAMS)
    assert float(optax.tree.norm(moved)) == pytest.approx(0.01, rel=1e-4)


class _Turned:
    """Takes the optimizer's whole update the other way; keeps the rate that it was given."""

    def wrap(self, optimizer, rate):
        self.rates = [float(rate(step)) for step in range(3)]
        return optax.chain(optimizer, optax.scale(-1.0))


def test_a_methods_transform_wraps_the_whole_optimizer():
    transform = _Turned()
    optim, hyper = Optim('sgd', momentum=0.0), Hyper(0.1, 0.0, 0.0)
    plain = _run(optim, hyper, 1)
    turned = _run(optim, hyper, 1, transform=transform)
    jax.tree.map(
        lambda a, b, p: np.testing.assert_allclose(a - p, p - b, atol=1e-6), turned, plain, PARAMS
    )
    assert transform.rates[0] == pytest.approx(0.1)
    assert all(rate > 0 for rate in transform.rates)


@pytest.mark.parametrize(
    'wrong', [{'name': 'adam'}, {'momentum': 1.0}, {'clip_norm': -1.0}, {'label_smoothing': 1.0}]
)
def test_wrong_values_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Optim(**wrong)
