"""Multi-head attention, heads first, whose backward pass keeps no [B, H, T, T] probabilities.

Layout and backward were chosen by measurement (`launch/speed/speed.py ops`): [B, H, T, d] products
run faster on CPU than [B, T, H, d] ones, and recomputing the softmax in the backward pass costs one
product of six but saves the largest activation of a block.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from jax_prompt.nn.products import wide


@jax.custom_vjp
def attend(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Computes softmax(q k^T / sqrt(d) + bias) v, softmax in float32.

    Args:
      q: queries [B, H, T, d].
      k: keys [B, H, S, d].
      v: values [B, H, S, d].
      bias: added to all scores of a key, [S] or [B, S] float32; -inf leaves the key out (one key at
        least has to stay). No gradient passes to it. None: nothing is added.

    Returns:
      [B, H, T, d] in the dtype of v. The backward pass keeps the arguments only.
    """
    return _combine(_probabilities(q, k, bias), v)


def _probabilities(q: jax.Array, k: jax.Array, bias: jax.Array | None) -> jax.Array:
    scores = wide(jnp.einsum, 'bhtd,bhsd->bhts', q, k)  # [B, H, T, S]
    scores = scores / math.sqrt(q.shape[-1])
    if bias is not None:
        scores = scores + (bias if bias.ndim == 1 else bias[:, None, None])
    return jax.nn.softmax(scores, axis=-1)


def _combine(probabilities: jax.Array, v: jax.Array) -> jax.Array:
    return wide(jnp.einsum, 'bhts,bhsd->bhtd', probabilities.astype(v.dtype), v).astype(v.dtype)


def _forward(q, k, v, bias):
    return attend(q, k, v, bias), (q, k, v, bias)


def _backward(residuals, g):
    q, k, v, bias = residuals
    dq, dk, dv, _ = _gradients(q, k, v, _probabilities(q, k, bias), g)
    return dq, dk, dv, None


def _gradients(q, k, v, p, g):
    """Returns the gradients of q, k, v, and of the scores [B, H, T, S] before the softmax."""
    dv = wide(jnp.einsum, 'bhts,bhtd->bhsd', p.astype(g.dtype), g)
    dp = wide(jnp.einsum, 'bhtd,bhsd->bhts', g, v)
    # sum_s dp * p = <g, output>, without the output being kept.
    dscores = p * (dp - jnp.sum(dp * p, axis=-1, keepdims=True))
    # Without the barrier the compiler of TPUs computes this once for each of the two products.
    ds = jax.lax.optimization_barrier((dscores / math.sqrt(q.shape[-1])).astype(q.dtype))
    dq = wide(jnp.einsum, 'bhts,bhsd->bhtd', ds, k)
    dk = wide(jnp.einsum, 'bhts,bhtd->bhsd', ds, q)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), dscores


attend.defvjp(_forward, _backward)


@jax.custom_vjp
def attend_windows(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
    """Computes softmax(q k^T / sqrt(d) + bias) v within windows, softmax in float32.

    Args:
      q: queries [B * W, H, T, d], the W windows of an image in a row.
      k: keys [B * W, H, S, d].
      v: values [B * W, H, S, d].
      bias: [W, H, T, S] float32, or [1, H, T, S] for all windows alike.

    Returns:
      [B * W, H, T, d] in the dtype of v. The backward pass keeps the arguments only.
    """
    return _combine(_biased(q, k, bias), v)


def _biased(q: jax.Array, k: jax.Array, bias: jax.Array) -> jax.Array:
    scores = wide(jnp.einsum, 'bhtd,bhsd->bhts', q, k)
    scores = scores / math.sqrt(q.shape[-1])
    by_window = scores.reshape(-1, *bias.shape) + bias  # [B, W, H, T, S]
    return jax.nn.softmax(by_window.reshape(scores.shape), axis=-1)


def _windows_forward(q, k, v, bias):
    return attend_windows(q, k, v, bias), (q, k, v, bias)


def _windows_backward(residuals, g):
    q, k, v, bias = residuals
    p = _biased(q, k, bias)  # [B * W, H, T, S] float32
    dq, dk, dv, ds = _gradients(q, k, v, p, g)
    dbias = jnp.sum(ds.reshape(-1, *bias.shape), axis=0)
    return dq, dk, dv, dbias.astype(bias.dtype)


attend_windows.defvjp(_windows_forward, _windows_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def split_heads(qkv: jax.Array, num_heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Splits the joint projection [B, T, 3D] (q | k | v, heads-major) into three [B, H, T, D/H].

    The backward pass puts the three side by side. JAX's own would pad each with zeros and add them,
    which in bfloat16 on CPU took longer than a product (210 ms of a step of 460 on a ViT-Ti). Heads
    are joined before: on a TPU a stack of all three heads first is copied into another layout.
    """
    batch, length, width = qkv.shape
    qkv = qkv.reshape(batch, length, 3, num_heads, width // (3 * num_heads))
    q, k, v = jnp.moveaxis(qkv, (2, 3), (0, 2))  # each [B, H, T, D/H]
    return q, k, v


def _split_forward(qkv, num_heads):
    return split_heads(qkv, num_heads), None


def _split_backward(num_heads, _, gradients):
    del num_heads
    return (jnp.concatenate([join_heads(one) for one in gradients], axis=-1),)  # [B, T, 3D]


split_heads.defvjp(_split_forward, _split_backward)


def join_heads(x: jax.Array) -> jax.Array:
    """Joins [B, H, T, d] into [B, T, H * d], the inverse of the split of one of q, k, v."""
    batch, heads, length, depth = x.shape
    return jnp.swapaxes(x, 1, 2).reshape(batch, length, heads * depth)
