"""The mixing of Anderson's method, for a batch of independent samples.

The method keeps the last m points z_i with residuals r_i = f(z_i) - z_i and goes to
sum_i a_i (z_i + beta r_i), where a minimises ||sum_i a_i r_i|| under sum_i a_i = 1 (Walker & Ni,
"Anderson Acceleration for Fixed-Point Iterations", SIAM J. Numer. Anal. 49, 2011; Bai et al.,
"Deep Equilibrium Models", arXiv:1909.01377, for its use in networks). Departures from the usual
implementation:

- Each sample has its own a.
- Residuals are kept as unit vectors, so that the Gram matrix has a unit diagonal and its ridge is
  relative. An absolute ridge swamps the small residuals of a backward pass: the steps then grow as
  the cotangent shrinks. One row of the matrix is computed a step.
- A residual above `restart` times the best one drops that sample's history; the caller goes on from
  f(best). The best is counted anew from there, or a map whose plain step raises the residual would
  restart for ever; what is returned is still the best of all.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

LARGEST_MEMORY = 16  # the small systems are solved by unrolled code


class History(NamedTuple):
    """The last m points of each sample. Slots are filled in turn, all samples in lockstep."""

    ahead: jax.Array  # z_i + beta r_i, [B, m, n]
    units: jax.Array  # r_i / ||r_i||, [B, m, n]
    norms: jax.Array  # ||r_i||, [B, m]; 0 marks an empty slot
    gram: jax.Array  # products of units, [B, m, m]
    lowest: jax.Array  # smallest residual norm since the last restart, [B]


def empty(z0: jax.Array, memory: int) -> History:
    """Returns the history before the first of the points, which are like z0 [B, n]."""
    batch, size = z0.shape

    def zeros(*shape: int) -> jax.Array:
        # Made like z0, so that under shard_map they vary over the same mesh axes.
        return jnp.zeros_like(z0, shape=(batch, *shape))

    points, pairs = (memory, size), (memory, memory)
    return History(zeros(*points), zeros(*points), zeros(memory), zeros(*pairs), zeros() + jnp.inf)


def mix(
    history: History,
    step: jax.Array,
    ahead: jax.Array,
    r: jax.Array,
    r_norm: jax.Array,
    restart: float,
    ridge: float,
) -> tuple[History, jax.Array, jax.Array]:
    """Adds a point to the history.

    Args:
      history: of the steps before.
      step: number of this one, from 0.
      ahead: z + beta r of the point, [B, n].
      r: its residual, [B, n].
      r_norm: the norm of that, [B].
      restart: see `Solver`.
      ridge: see `Solver`.

    Returns:
      (history, where the method goes [B, n], whether a sample's history was dropped [B]).
    """
    memory = history.norms.shape[-1]
    slot = step % memory
    here = jnp.arange(memory) == slot  # [m]
    unit = r / jnp.where(r_norm > 0, r_norm, 1.0)[:, None]
    aheads = jax.lax.dynamic_update_slice_in_dim(history.ahead, ahead[:, None], slot, axis=1)
    units = jax.lax.dynamic_update_slice_in_dim(history.units, unit[:, None], slot, axis=1)
    row = jnp.where(here, 1.0, _products(units, unit))  # [B, m]
    gram = jnp.where(here[:, None], row[:, None, :], history.gram)
    gram = jnp.where(here[None, :], row[:, :, None], gram)  # [B, m, m]

    again = r_norm > restart * history.lowest  # [B]
    norms = jnp.where(here, r_norm[:, None], history.norms)
    norms = jnp.where(again[:, None], 0.0, norms)
    lowest = jnp.where(again, jnp.inf, jnp.minimum(history.lowest, r_norm))
    mixed = _combine(_weights(gram, norms, r_norm, ridge), aheads)
    return History(aheads, units, norms, gram, lowest), mixed, again


def _weights(gram: jax.Array, norms: jax.Array, scale: jax.Array, ridge: float) -> jax.Array:
    """Returns the mixing weights a [B, m], which sum to 1; 0 for empty slots.

    With unit residuals, a_i = w_i c_i / sum_j w_j c_j, where w_i = scale / ||r_i|| and
    (gram + ridge) c = w. Cholesky's method is written out over the m columns: batched library
    solvers are slow for matrices of this size.
    """
    m = norms.shape[-1]
    filled = norms > 0
    w = jnp.where(filled, scale[:, None] / jnp.where(filled, norms, 1.0), 0.0)
    both = filled[:, :, None] & filled[:, None, :]
    rest = jnp.where(both, gram, jnp.eye(m, dtype=gram.dtype))  # not yet factored
    right = w
    factors = []  # of each column: root of the pivot [B, 1], the rest of it, its y in L y = w
    for _ in range(m):
        pivot = jnp.sqrt(jnp.maximum(rest[:, :1, 0] + ridge, ridge))  # rounding may be below
        column = rest[:, 1:, 0] / pivot  # [B, what remains]
        y = right[:, :1] / pivot
        rest = rest[:, 1:, 1:] - column[:, :, None] * column[:, None, :]
        right = right[:, 1:] - column * y
        factors.append((pivot, column, y))
    c = w[:, :0]  # solves L^T c = y, from the last entry
    for pivot, column, y in reversed(factors):
        entry = (y - jnp.sum(column * c, axis=-1, keepdims=True)) / pivot
        c = jnp.concatenate([entry, c], axis=-1)
    a = w * c  # [B, m]
    total = jnp.sum(a, axis=-1, keepdims=True)  # = ||y||^2, positive unless all slots are empty
    return a / jnp.where(total > 0, total, 1.0)


def _products(units: jax.Array, unit: jax.Array) -> jax.Array:
    """Products of units [B, m, n] and unit [B, n], as [B, m]; in full precision everywhere."""
    return jnp.einsum('bmn,bn->bm', units, unit, precision=jax.lax.Precision.HIGHEST)


def _combine(weights: jax.Array, points: jax.Array) -> jax.Array:
    """Sums points [B, m, n] with weights [B, m], as [B, n]; in full precision everywhere."""
    return jnp.einsum('bm,bmn->bn', weights, points, precision=jax.lax.Precision.HIGHEST)
