"""The Jacobian J = df/dz of a cell: how large it is, and a penalty that keeps it small."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_prompt.deq.fixed_point import Cell
from jax_prompt.deq.solver import norm


def spectral_radius(
    f: Cell, args: Any, z: jax.Array, key: jax.Array, num_iters: int = 20
) -> jax.Array:
    """Estimates the spectral radius of each sample's Jacobian, by power iteration on products v J.

    The estimate is the geometric mean of the growth over the last half of the iterations: single
    factors swing where the leading eigenvalues are a complex pair. Plain iteration converges near
    z if it is below 1, by this factor a step.

    Args:
      f: (args, z [B, ...]) -> [B, ...], each sample independently of the others.
      args: of f.
      z: where to take the Jacobian, [B, ...], usually the fixed point.
      key: random key of the first vector.
      num_iters: products, at least 2.

    Returns:
      [B] float32 (float64 where z is).

    Raises:
      ValueError: num_iters is below 2.
    """
    if num_iters < 2:
        raise ValueError(f'num_iters {num_iters}, allowed: at least 2; the usual value is 20')
    dtype = jnp.promote_types(z.dtype, jnp.float32)
    fz, pull = jax.vjp(lambda z: f(args, z), z)
    tiny = jnp.finfo(dtype).tiny

    def step(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        v, total = carry
        v = pull(v.astype(fz.dtype))[0].astype(dtype)
        size = norm(v)
        total = total + jnp.where(i >= num_iters // 2, jnp.log(jnp.maximum(size, tiny)), 0.0)
        return v / jnp.maximum(size, tiny).reshape(-1, *(1,) * (v.ndim - 1)), total

    v = jax.random.normal(key, z.shape, dtype) + jnp.zeros_like(z, dtype=dtype)
    v = v / norm(v).reshape(-1, *(1,) * (v.ndim - 1))
    _, total = jax.lax.fori_loop(0, num_iters, step, (v, jnp.zeros_like(norm(v))))
    return jnp.exp(total / (num_iters - num_iters // 2))


def jacobian_penalty(f: Cell, args: Any, z: jax.Array, key: jax.Array) -> jax.Array:
    """Estimates the mean over samples of ||J||_F^2 / size, by one random product v J a sample.

    Source: Bai et al., "Stabilizing Equilibrium Models by Jacobian Regularization",
    arXiv:2106.14342 (Hutchinson's estimator, v standard normal). As there, z counts as a
    constant.

    Args:
      f: (args, z [B, ...]) -> [B, ...], each sample independently of the others.
      args: of f; the penalty is differentiable with respect to them.
      z: where to take the Jacobian, [B, ...], usually the fixed point.
      key: random key of v.

    Returns:
      Scalar, float32 (float64 where z is); an unbiased estimate.
    """
    fz, pull = jax.vjp(lambda z: f(args, z), jax.lax.stop_gradient(z))
    v = jax.random.normal(key, fz.shape, fz.dtype)
    product = pull(v)[0].astype(jnp.promote_types(z.dtype, jnp.float32))
    return jnp.mean(jnp.square(product))
