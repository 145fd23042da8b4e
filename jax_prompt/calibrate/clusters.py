"""Clusters of points: their statistics, chunk by chunk, and how centres move by them.

A chunk of points adds to `Stats` (sums, counts and inertia of the clusters), and `move` turns the
total of all chunks into the next centres.

Distances are ||x||^2 - 2 x c + ||c||^2 in float32, with x and c first shifted by the mean centre,
since the expansion cancels badly where points lie far from the origin. Products are asked for in
full float32, which accelerators otherwise round. Sums over a cluster are one-hot products, not
scatters, so results are deterministic on every device.

An empty cluster moves to the point farthest from any centre, one cluster an iteration; others keep
their centres until their turn comes.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

ROUNDING = 1e-12  # relative squared move below which float32 centres stand still


class Stats(NamedTuple):
    """Lloyd statistics of some points for given centres; float32 but for the counts."""

    sums: jax.Array  # sum of each cluster's points, relative to the mean centre, [P, D]
    counts: jax.Array  # points of each cluster, [P] int32
    inertia: jax.Array  # sum of squared distances to the nearest centre
    squares: jax.Array  # sum of squared distances to the mean centre
    far_distance: jax.Array  # largest squared distance to the nearest centre
    far_point: jax.Array  # the point at that distance, [D]


def empty_stats(num_clusters: int, width: int) -> Stats:
    """Returns the statistics of no points."""
    sums, zero = jnp.zeros((num_clusters, width), jnp.float32), jnp.zeros((), jnp.float32)
    return Stats(sums, jnp.zeros(num_clusters, jnp.int32), zero, zero, zero, sums[0])


def add_points(stats: Stats, points: jax.Array, mask: jax.Array, centres: jax.Array) -> Stats:
    """Returns the statistics with some points added.

    Args:
      stats: what was counted so far, for the same centres.
      points: [M, D], any float type.
      mask: [M] bool, False for rows that don't count.
      centres: [P, D] float32.
    """
    points = jnp.where(mask[:, None], points.astype(jnp.float32), centres[0])
    origin = centres.mean(0)
    shifted = points - origin
    distances = squared_distances(points, centres)  # [M, P]
    nearest = jnp.where(mask, distances.min(-1), 0.0)  # [M]
    label = distances.argmin(-1)
    member = (label[:, None] == jnp.arange(centres.shape[0])) & mask[:, None]  # [M, P]
    one_hot = member.astype(jnp.float32)
    far = nearest.argmax()
    farther = nearest[far] > stats.far_distance
    return Stats(
        sums=stats.sums + jnp.dot(one_hot.T, shifted, precision='highest'),
        counts=stats.counts + member.sum(0, dtype=jnp.int32),
        inertia=stats.inertia + nearest.sum(),
        squares=stats.squares + jnp.where(mask, (shifted**2).sum(-1), 0.0).sum(),
        far_distance=jnp.where(farther, nearest[far], stats.far_distance),
        far_point=jnp.where(farther, points[far], stats.far_point),
    )


def move(stats: Stats, centres: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Moves centres [P, D] by the statistics of all points for them.

    Returns:
      The centres [P, D], the sum of their squared moves (0 where that is mere rounding), and the
      points' variance averaged over the D channels (scikit-learn scales `tol` by it).
    """
    origin = centres.mean(0)
    full = stats.counts > 0
    counts = jnp.maximum(stats.counts, 1).astype(jnp.float32)
    moved = jnp.where(full[:, None], origin + stats.sums / counts[:, None], centres)
    reseeded = (~full & (jnp.cumsum(~full) == 1)) & (stats.far_distance > 0)
    moved = jnp.where(reseeded[:, None], stats.far_point, moved)
    total = jnp.maximum(stats.counts.sum(), 1).astype(jnp.float32)
    mean = stats.sums.sum(0) / total
    variance = (stats.squares / total - (mean**2).sum()) / centres.shape[1]
    shift = ((moved - centres) ** 2).sum()
    shift = jnp.where(shift <= ROUNDING * (centres**2).sum(), 0.0, shift)
    return moved, shift, jnp.maximum(variance, 0.0)


def squared_distances(points: jax.Array, centres: jax.Array) -> jax.Array:
    """Returns the squared distances [M, P] of points [M, D] to centres [P, D], float32."""
    origin = centres.mean(0)
    points = points.astype(jnp.float32) - origin
    centres = centres - origin
    cross = jnp.dot(points, centres.T, precision='highest')  # [M, P]
    squares = (points**2).sum(-1)[:, None] - 2 * cross + (centres**2).sum(-1)
    return jnp.maximum(squares, 0.0)


def all_distances(points: jax.Array, centres: jax.Array, chunk_size: int) -> jax.Array:
    """Returns the squared distances [n, P] of all points, without a shifted copy of them all."""

    def fill(out, part, start, fresh):
        return jax.lax.dynamic_update_slice_in_dim(out, squared_distances(part, centres), start, 0)

    out = jnp.zeros((points.shape[0], centres.shape[0]), jnp.float32)
    return over_chunks(points, chunk_size, fill, out)


def over_chunks(points: jax.Array, chunk_size: int, body: Callable[..., Any], state: Any) -> Any:
    """Folds body(state, chunk [M, D], start, fresh [M] bool) over the points, uncopied.

    The last chunk starts early enough to be whole; the rows that it repeats are not fresh.
    """
    num_points = points.shape[0]
    chunk = min(chunk_size, num_points)

    def step(index, state):
        start = jnp.minimum(index * chunk, num_points - chunk)
        part = jax.lax.dynamic_slice_in_dim(points, start, chunk)
        return body(state, part, start, jnp.arange(chunk) + start >= index * chunk)

    return jax.lax.fori_loop(0, math.ceil(num_points / chunk), step, state)
