"""Rows of arrays."""

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def without_rows(x: jax.Array, first: int, number: int) -> jax.Array:
    """Leaves out `number` rows from `first` of x [..., T, D]; the gradient gets zeros there."""
    return jnp.concatenate([x[..., :first, :], x[..., first + number :, :]], axis=-2)


def _backward(first, number, _, g):
    zeros = jnp.zeros((*g.shape[:-2], number, g.shape[-1]), g.dtype)
    return (jnp.concatenate([g[..., :first, :], zeros, g[..., first:, :]], axis=-2),)


without_rows.defvjp(lambda x, first, number: (without_rows(x, first, number), None), _backward)
