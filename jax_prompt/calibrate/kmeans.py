"""K-means on a device: Lloyd's algorithm with k-means++ seeding, resident or streamed.

A chunk of points adds to the statistics of the clusters, and their total moves the centres
(`clusters.py`). Two drivers share this:

- `lloyd`: the points are one array [n, D]; all iterations are one compiled loop over its chunks.
- `lloyd_stream`: the points come in batches, each for one of several problems (the layers of a
  network); one pass over the data is one iteration of all problems, and nothing is kept.

References:
  Lloyd, Least squares quantization in PCM, 1982. Arthur and Vassilvitskii, k-means++, SODA 2007.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.calibrate.clusters import (
    Stats,
    add_points,
    all_distances,
    empty_stats,
    move,
    over_chunks,
)

CHUNK_SIZE = 16384

Array = jax.Array | np.ndarray


class KMeansResult(NamedTuple):
    """What k-means found; `lloyd_stream` gives each field a leading axis of problems.

    Attributes:
      centres: [P, D] float32.
      inertia: sum of squared distances of all points to their nearest of these centres.
      num_iter: iterations, each one pass over the points.
      converged: whether the centres came to rest within `tol` before `max_iter`.
    """

    centres: Array
    inertia: Array
    num_iter: Array
    converged: Array


@functools.partial(jax.jit, static_argnames=('chunk_size',))
def lloyd(
    points: Array,
    init: Array,
    *,
    max_iter: int = 100,
    tol: float = 1e-4,
    chunk_size: int = CHUNK_SIZE,
) -> KMeansResult:
    """Runs Lloyd's algorithm on an array of points from given centres.

    Args:
      points: [n, D]; the distance matrix is made for `chunk_size` of them at a time.
      init: initial centres, [P, D].
      max_iter: most iterations.
      tol: stop once the sum of squared moves is at most `tol` x the mean variance of the channels.
      chunk_size: points of one chunk.

    Returns:
      The result. May be vmapped, over `init` or over both arrays.
    """
    num_clusters, width = init.shape

    def count(centres):
        def add(stats, part, start, fresh):
            return add_points(stats, part, fresh, centres)

        return over_chunks(points, chunk_size, add, empty_stats(num_clusters, width))

    def step(state):
        centres, iteration, _ = state
        moved, shift, variance = move(count(centres), centres)
        return moved, iteration + 1, shift <= tol * variance

    def unfinished(state):
        return (state[1] < max_iter) & ~state[2]

    start = (init.astype(jnp.float32), jnp.int32(0), jnp.bool_(False))
    centres, num_iter, converged = jax.lax.while_loop(unfinished, step, start)
    return KMeansResult(centres, count(centres).inertia, num_iter, converged)


@functools.partial(jax.jit, static_argnames=('num_clusters', 'chunk_size'))
def plus_plus(
    key: jax.Array, points: jax.Array, num_clusters: int, *, chunk_size: int = CHUNK_SIZE
) -> jax.Array:
    """Seeds centres by greedy k-means++.

    Each centre is the best, by remaining inertia, of 2 + floor(ln P) points that are drawn in
    proportion to their squared distance from the centres so far.

    Args:
      key: random key.
      points: [n, D].
      num_clusters: P.
      chunk_size: points of one chunk.

    Returns:
      Centres [P, D] float32, each one of the points.
    """
    num_points, width = points.shape
    num_trials = 2 + int(math.log(num_clusters))
    first_key, key = jax.random.split(key)
    first = points[jax.random.randint(first_key, (), 0, num_points)].astype(jnp.float32)
    nearest = all_distances(points, first[None], chunk_size)[:, 0]  # [n]
    centres = jnp.zeros((num_clusters, width), jnp.float32).at[0].set(first)

    def add(index, state):
        centres, nearest = state
        # Where every point lies on a centre, all are alike.
        weights = jnp.where(nearest.max() > 0, nearest, 1.0)
        draws = jax.random.categorical(
            jax.random.fold_in(key, index), jnp.log(weights), shape=(num_trials,)
        )
        trials = points[draws].astype(jnp.float32)  # [trials, D]
        left = jnp.minimum(nearest[:, None], all_distances(points, trials, chunk_size))
        best = left.sum(0).argmin()  # left: [n, trials]
        return centres.at[index].set(trials[best]), left[:, best]

    return jax.lax.fori_loop(1, num_clusters, add, (centres, nearest))[0]


def kmeans(
    key: jax.Array,
    points: Array,
    num_clusters: int,
    *,
    num_init: int = 1,
    max_iter: int = 100,
    tol: float = 1e-4,
    chunk_size: int = CHUNK_SIZE,
) -> KMeansResult:
    """Clusters an array of points: k-means++ seeding, then Lloyd; the best of `num_init` runs.

    Args:
      key: random key; the same key gives the same result.
      points: [n, D].
      num_clusters: P.
      num_init: runs from different seeds, of which the lowest inertia wins.
      max_iter: most iterations of a run.
      tol: see `lloyd`.
      chunk_size: see `lloyd`.

    Raises:
      ValueError: fewer points than clusters.
    """
    if num_clusters < 1 or num_clusters > points.shape[0]:
        raise ValueError(
            f'num_clusters={num_clusters} of {points.shape[0]} points; allowed: 1 to the number of '
            'points. Ask for fewer clusters or give more points'
        )

    def run(run_key):
        init = plus_plus(run_key, points, num_clusters, chunk_size=chunk_size)
        return lloyd(points, init, max_iter=max_iter, tol=tol, chunk_size=chunk_size)

    if num_init <= 1:
        return run(key)
    runs = jax.lax.map(run, jax.random.split(key, num_init))  # leaves [num_init, ...]
    return jax.tree.map(lambda leaf: leaf[runs.inertia.argmin()], runs)


Pass = Callable[[frozenset[int]], Iterable[tuple[int, jax.Array, jax.Array]]]


def lloyd_stream(
    pass_over_batches: Pass, init: jax.Array, *, max_iter: int = 100, tol: float = 1e-4
) -> KMeansResult:
    """Runs Lloyd's algorithm on several problems at once, over points that are never kept.

    Args:
      pass_over_batches: called once an iteration with the problems that still move; yields every
        batch of their points as (problem, points [M, D], mask [M] bool). Batches of one shape
        compile once.
      init: initial centres, [L, P, D].
      max_iter: most iterations, each one pass; one more pass measures the final inertia.
      tol: see `lloyd`; a problem that has converged rests while the others go on.

    Returns:
      The result, numpy, with a leading axis of L problems.
    """
    num_problems, num_clusters, width = init.shape
    centres = [jnp.asarray(init[i], jnp.float32) for i in range(num_problems)]
    inertia = np.full(num_problems, np.nan, np.float32)
    num_iter = np.zeros(num_problems, np.int32)
    converged = np.zeros(num_problems, bool)
    stale = np.ones(num_problems, bool)  # inertia is not yet that of the centres

    def count(which: np.ndarray) -> dict[int, Stats]:
        wanted = frozenset(np.flatnonzero(which).tolist())
        stats = {problem: empty_stats(num_clusters, width) for problem in wanted}
        for problem, points, mask in pass_over_batches(wanted):
            if problem in wanted:
                stats[problem] = _add_points(stats[problem], points, mask, centres[problem])
                # One batch in flight: a queue of them would hold tokens beyond the caller's budget.
                jax.block_until_ready(stats[problem])
        return stats

    for _ in range(max_iter):
        if converged.all():
            break
        for problem, total in count(~converged).items():
            centres[problem], shift, variance = _move(total, centres[problem])
            num_iter[problem] += 1
            converged[problem] = bool(shift <= tol * variance)
            stale[problem] = bool(shift > 0)
            inertia[problem] = total.inertia
    if stale.any():
        for problem, total in count(stale).items():
            inertia[problem] = total.inertia
    return KMeansResult(np.stack(centres), inertia, num_iter, converged)


_add_points = jax.jit(add_points)
_move = jax.jit(move)
