"""Batch norm: a constant of the network, or of the batch, whose statistics leave as a cotangent.

Ioffe and Szegedy, "Batch Normalization", arXiv:1502.03167, algorithms 1 and 2. The running mean and
variance are leaves beside scale and bias. In training by the batch their new values have to leave
the step, though nothing but gradients does: so the backward pass returns, as the "cotangent" of the
running statistics, the step that they are to go down by,

    momentum (mean - batch mean),    momentum (var - batch variance, unbiased as torch keeps it),

whatever the loss: running <- (1 - momentum) running + momentum batch. The optimizer takes these
steps as they are (`train/optim.py`); nothing may scale, clip, add or average them.

The mean is over batch and pixels of the whole array: under `jit` on many devices that of the whole
batch, on all of them.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

_AXES = (0, 1, 2)  # batch and pixels


def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    epsilon: float,
) -> jax.Array:
    """Normalises by the running statistics: one scale and one shift a channel.

    Args:
      x: [B, H, W, C].
      scale: [C].
      bias: [C].
      mean: [C].
      var: [C].
      epsilon: added to the variance.

    Returns:
      [B, H, W, C] in the dtype of x, computed in float32.
    """
    factor = jax.lax.rsqrt(var.astype(jnp.float32) + epsilon) * scale
    return (x.astype(jnp.float32) * factor + (bias - mean * factor)).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def batch_norm_of_batch(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    epsilon: float,
    momentum: float,
) -> jax.Array:
    """Normalises by the batch's own mean and biased variance; arguments as in `batch_norm`.

    The running mean and variance do not enter the value. Their cotangents are the steps that the
    head of this file says; `momentum` is the share of the batch in the new ones.
    """
    return _forward(x, scale, bias, mean, var, epsilon, momentum)[0]


def _forward(x, scale, bias, mean, var, epsilon, momentum):
    wide = x.astype(jnp.float32)
    centre = jnp.mean(wide, axis=_AXES)  # [C]
    spread = jnp.mean(jnp.square(wide - centre), axis=_AXES)
    y = batch_norm(x, scale, bias, centre, spread, epsilon)
    return y, (x, scale, bias, mean, var, centre, spread)


def _backward(epsilon, momentum, residuals, g):
    x, scale, bias, mean, var, centre, spread = residuals
    count = x.size // x.shape[-1]
    inverse = jax.lax.rsqrt(spread + epsilon)
    unit = (x.astype(jnp.float32) - centre) * inverse  # [B, H, W, C]
    g = g.astype(jnp.float32)
    dbias, dscale = jnp.sum(g, axis=_AXES), jnp.sum(g * unit, axis=_AXES)
    dx = scale * inverse * (g - (dbias + unit * dscale) / count)
    unbiased = spread * (count / max(count - 1, 1))
    return (
        dx.astype(x.dtype),
        dscale.astype(scale.dtype),
        dbias.astype(bias.dtype),
        (momentum * (mean - centre)).astype(mean.dtype),
        (momentum * (var - unbiased)).astype(var.dtype),
    )


batch_norm_of_batch.defvjp(_forward, _backward)


class BatchNorm(nn.Module):
    """Batch norm with its four leaves.

    Attributes:
      epsilon: added to the variance.
      momentum: share of a batch's statistics in the new running ones.
    """

    epsilon: float
    momentum: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array, by_batch: bool) -> jax.Array:
        """Normalises x [B, H, W, C], by the batch or by the running statistics."""
        ones, zeros, shape = nn.initializers.ones, nn.initializers.zeros, (x.shape[-1],)
        scale, bias = self.param('scale', ones, shape), self.param('bias', zeros, shape)
        mean, var = self.param('mean', zeros, shape), self.param('var', ones, shape)
        leaves = (scale, bias, mean, var)
        if by_batch:
            return batch_norm_of_batch(x, *leaves, self.epsilon, self.momentum)
        return batch_norm(x, *leaves, self.epsilon)
