"""Batch norm against torch's: values, gradients, and what becomes of the running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.nn.batch_norm import batch_norm, batch_norm_of_batch

RNG = np.random.default_rng(0)
X = (3.0 + 2.0 * RNG.standard_normal((4, 3, 5, 6))).astype(np.float32)
G = RNG.standard_normal(X.shape).astype(np.float32)
LEAVES = [RNG.standard_normal(6).astype(np.float32) for _ in range(3)]
LEAVES.append((0.1 + RNG.random(6)).astype(np.float32))  # scale, bias, mean, var


def _torchs(train):
    torch = pytest.importorskip('torch', reason='torch is not installed')
    norm = torch.nn.BatchNorm2d(6, eps=1e-5, momentum=0.1)
    for leaf, own in zip(
        (norm.weight, norm.bias, norm.running_mean, norm.running_var), LEAVES, strict=True
    ):
        leaf.data.copy_(torch.from_numpy(own))
    x = torch.from_numpy(X).permute(0, 3, 1, 2).requires_grad_()
    y = norm.train(train)(x)
    y.backward(torch.from_numpy(G).permute(0, 3, 1, 2))
    out = [y.permute(0, 2, 3, 1), x.grad.permute(0, 2, 3, 1), norm.weight.grad, norm.bias.grad]
    return [t.detach().numpy() for t in (*out, norm.running_mean, norm.running_var)]


def test_frozen_it_is_torchs_in_evaluation():
    want = _torchs(train=False)
    got, backward = jax.vjp(lambda x: batch_norm(x, *LEAVES, 1e-5), X)
    np.testing.assert_allclose(got, want[0], atol=1e-5)
    np.testing.assert_allclose(backward(G)[0], want[1], atol=1e-5)


def test_by_the_batch_it_is_torchs_in_training():
    want = _torchs(train=True)
    got, backward = jax.vjp(lambda *a: batch_norm_of_batch(*a, 1e-5, 0.1), X, *LEAVES)
    dx, dscale, dbias, dmean, dvar = backward(G)
    after = (LEAVES[2] - dmean, LEAVES[3] - dvar)
    for ours, torchs in zip((got, dx, dscale, dbias, *after), want, strict=True):
        np.testing.assert_allclose(ours, torchs, atol=2e-5)


def test_the_steps_of_statistics_do_not_depend_on_the_loss():
    """Nor on its scale, nor on whether the block is recomputed or part of a loop."""

    def steps(scale, wrap=lambda f: f):
        def loss(leaves):
            norm = wrap(lambda x: batch_norm_of_batch(x, *leaves, 1e-5, 0.1))
            return scale * jnp.sum(norm(X) * G)

        return jax.grad(loss)(LEAVES)[2:]

    def looped(f):
        return lambda x: jax.lax.scan(lambda c, x: (c, f(x)), 0.0, x[None])[1]

    want = [0.1 * (LEAVES[2] - X.mean((0, 1, 2))), 0.1 * (LEAVES[3] - X.var((0, 1, 2), ddof=1))]
    for got in (steps(1.0), steps(1e-3), steps(0.0), steps(1.0, jax.checkpoint)):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for a, b in zip(steps(1.0, looped), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_half_precision_keeps_statistics_in_float32():
    x = jnp.asarray(X + 100.0, jnp.bfloat16)  # its variance would be lost in bfloat16
    y, backward = jax.vjp(lambda x, m, v: batch_norm_of_batch(
        x, *LEAVES[:2], m, v, 1e-5, 1.0
    ), x, *LEAVES[2:])  # fmt: skip
    assert y.dtype == jnp.bfloat16
    dx, dmean, _ = backward(jnp.asarray(G, jnp.bfloat16))
    assert dx.dtype == jnp.bfloat16 and dmean.dtype == jnp.float32
    mean = np.asarray(x, np.float32).mean((0, 1, 2))
    np.testing.assert_allclose(LEAVES[2] - dmean, mean, rtol=1e-5)
