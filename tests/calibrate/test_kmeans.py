import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.calibrate.kmeans import kmeans, lloyd, lloyd_stream, plus_plus


# Most tests share sizes (2000 points, 8 channels, 10 clusters), so that they share compilations.
def mixture(seed=0, num_points=2000, width=8, num_centres=10, spread=2.0):
    """Overlapping gaussians [n, D], float32."""
    rng = np.random.default_rng(seed)
    centres = spread * rng.normal(size=(num_centres, width))
    points = centres[rng.integers(num_centres, size=num_points)]
    return (points + rng.normal(size=points.shape)).astype(np.float32)


def blobs(num_each=40, offset=0.0):
    """Four well-separated blobs whose means are known: [n, 3], [4, 3]."""
    rng = np.random.default_rng(1)
    corners = np.array([[0, 0, 0], [50, 0, 0], [0, 50, 0], [0, 0, 50]]) + offset
    points = (corners[:, None] + rng.normal(size=(4, num_each, 3))).astype(np.float32)
    order = rng.permutation(4 * num_each)
    return points.reshape(-1, 3)[order], points.astype(np.float64).mean(1)


def in_order(centres):
    centres = np.asarray(centres)
    return centres[np.lexsort(np.round(centres.T))]


def inertia_of(points, centres):
    """Plain float64 inertia of points [n, D] for centres [P, D]."""
    points, centres = np.asarray(points, np.float64), np.asarray(centres, np.float64)
    return ((points[:, None] - centres) ** 2).sum(-1).min(1).sum()


def batches_of(problems, size):
    """A pass over padded batches of points, for `lloyd_stream`."""

    def one_pass(wanted):
        for start in range(0, len(problems[0]), size):
            for problem in sorted(wanted):
                part = problems[problem][start : start + size]
                mask = np.arange(size) < len(part)
                # Padding is far away, so that a leak would show.
                yield (
                    problem,
                    np.pad(part, ((0, size - len(part)), (0, 0)), constant_values=1e4),
                    mask,
                )

    return one_pass


@pytest.mark.parametrize('offset', [0.0, 300.0])
def test_separated_blobs_give_their_means(offset):
    points, means = blobs(offset=offset)
    result = kmeans(jax.random.key(0), points, 4)
    np.testing.assert_allclose(in_order(result.centres), in_order(means), rtol=1e-6, atol=1e-4)
    assert bool(result.converged)
    np.testing.assert_allclose(result.inertia, inertia_of(points, means), rtol=1e-3)


@pytest.mark.parametrize('chunk_size', [300, 16384])
def test_equals_scikit_learn_from_the_same_centres(chunk_size):
    from sklearn.cluster import KMeans

    points = mixture()
    init = points[:10]
    ours = lloyd(points, init, tol=1e-4, max_iter=300, chunk_size=chunk_size)
    theirs = KMeans(10, init=init, n_init=1, tol=1e-4, max_iter=300, algorithm='lloyd').fit(points)
    np.testing.assert_allclose(ours.centres, theirs.cluster_centers_, atol=2e-4)
    np.testing.assert_allclose(ours.inertia, theirs.inertia_, rtol=1e-5)
    assert int(ours.num_iter) == theirs.n_iter_
    np.testing.assert_allclose(ours.inertia, inertia_of(points, ours.centres), rtol=1e-5)


def test_own_seeding_is_as_good_as_scikit_learn():
    from sklearn.cluster import KMeans

    points = mixture(seed=3, spread=3.0)
    ours = [float(kmeans(jax.random.key(seed), points, 10).inertia) for seed in range(6)]
    theirs = [KMeans(10, n_init=1, random_state=seed).fit(points).inertia_ for seed in range(6)]
    assert np.mean(ours) < 1.05 * np.mean(theirs)
    poor = np.mean([lloyd(points, points[i : i + 10]).inertia for i in range(0, 60, 10)])
    assert np.mean(ours) < poor  # seeding by distance beats arbitrary points here


def test_more_runs_are_never_worse():
    points = mixture(seed=5, spread=3.0)
    key = jax.random.key(7)
    runs = [kmeans(part, points, 10).inertia for part in jax.random.split(key, 4)]
    best = kmeans(key, points, 10, num_init=4)
    np.testing.assert_allclose(best.inertia, min(runs), rtol=1e-6)
    np.testing.assert_allclose(best.inertia, inertia_of(points, best.centres), rtol=1e-5)


def test_seeds_are_points_and_distinct():
    points = mixture()
    seeds = np.asarray(plus_plus(jax.random.key(2), points, 10))
    rows = {row.tobytes() for row in points}
    assert all(row.tobytes() in rows for row in seeds)
    assert len({row.tobytes() for row in seeds}) == 10


def test_key_decides():
    points = mixture()
    first, again, other = (kmeans(jax.random.key(k), points, 10) for k in (0, 0, 1))
    np.testing.assert_array_equal(first.centres, again.centres)
    assert not np.array_equal(first.centres, other.centres)


def test_vmaps_over_layers():
    layers = np.stack([mixture(seed) for seed in range(3)])
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(lambda key, points: kmeans(key, points, 10))(keys, layers)
    for i in range(3):
        alone = kmeans(keys[i], layers[i], 10)
        np.testing.assert_allclose(together.centres[i], alone.centres, atol=1e-4)
        assert int(together.num_iter[i]) == int(alone.num_iter)


def test_empty_cluster_moves_to_the_farthest_point():
    points = np.array([[0.0], [1.0], [2.0], [30.0]], np.float32)
    init = np.array([[1.0], [1e3]], np.float32)  # nothing is nearest to the second
    result = lloyd(points, init, max_iter=1)
    np.testing.assert_allclose(result.centres, [[8.25], [30.0]])
    result = lloyd(points, init)
    np.testing.assert_allclose(result.centres, [[1.0], [30.0]])
    np.testing.assert_allclose(result.inertia, 2.0, rtol=1e-6)


def test_several_empty_clusters_are_filled_in_turn():
    points, means = blobs()
    init = np.concatenate([means[:1], np.full((3, 3), 1e3)]).astype(np.float32)
    init += np.arange(4)[:, None]  # distinct
    result = lloyd(points, init)
    np.testing.assert_allclose(in_order(result.centres), in_order(means), atol=1e-4)


def test_fewer_distinct_points_than_clusters():
    points = np.repeat(np.eye(2, 8, dtype=np.float32), 1000, axis=0)
    result = kmeans(jax.random.key(0), points, 10)
    assert np.isfinite(result.centres).all()
    np.testing.assert_allclose(result.inertia, 0.0, atol=1e-6)
    assert bool(result.converged)


def test_max_iter_stops_and_says_so():
    points = mixture()
    result = lloyd(points, points[:10], max_iter=2, tol=0.0)
    assert int(result.num_iter) == 2
    assert not bool(result.converged)
    np.testing.assert_allclose(result.inertia, inertia_of(points, result.centres), rtol=1e-5)


def test_as_many_clusters_as_points():
    points = mixture(num_points=12)
    result = kmeans(jax.random.key(0), points, 12)
    np.testing.assert_allclose(in_order(result.centres), in_order(points), atol=1e-5)
    # Zero but for the expansion's rounding, which is relative to the squared norms.
    squares = ((points - points.mean(0)) ** 2).sum()
    assert result.inertia <= np.finfo(np.float32).eps * squares


@pytest.mark.parametrize('num_clusters', [0, 13])
def test_impossible_number_of_clusters(num_clusters):
    with pytest.raises(ValueError, match=f'num_clusters={num_clusters} of 12 points; allowed'):
        kmeans(jax.random.key(0), mixture(num_points=12), num_clusters)


def test_half_precision_points_are_summed_in_float32():
    points = jnp.asarray(mixture(), jnp.bfloat16)
    init = points[:10].astype(jnp.float32)
    half = lloyd(points, init)
    full = lloyd(points.astype(jnp.float32), init)
    assert half.centres.dtype == jnp.float32
    np.testing.assert_allclose(half.centres, full.centres, atol=1e-5)


def test_streamed_equals_resident():
    problems = [mixture(seed, spread=1 + seed) for seed in range(3)]
    init = np.stack([points[:10] for points in problems])
    streamed = lloyd_stream(batches_of(problems, 256), init)
    for i, points in enumerate(problems):
        resident = lloyd(points, init[i])
        np.testing.assert_allclose(streamed.centres[i], resident.centres, atol=1e-3)
        np.testing.assert_allclose(streamed.inertia[i], resident.inertia, rtol=1e-5)
        assert streamed.num_iter[i] == int(resident.num_iter)
        assert streamed.converged[i] == bool(resident.converged)


def test_streamed_problems_rest_once_converged():
    points, means = blobs()
    slow = mixture(num_points=len(points), width=3, num_centres=30, spread=0.5)
    init = np.stack([means, slow[:4]]).astype(np.float32)
    asked = []

    def one_pass(wanted):
        asked.append(set(wanted))
        yield from batches_of([points, slow], 64)(wanted)

    result = lloyd_stream(one_pass, init, tol=0.0)
    assert result.num_iter[0] < result.num_iter[1]
    assert asked[0] == {0, 1}
    assert asked[result.num_iter[0]] == {1}
    # Both came to rest exactly (tol 0), so that no further pass is needed for the inertia.
    assert len(asked) == result.num_iter[1]
    np.testing.assert_allclose(result.inertia[1], inertia_of(slow, result.centres[1]), rtol=1e-5)
