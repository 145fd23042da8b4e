import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.deq.solver import CONVERGED, MAX_ITER, NONFINITE, Solver, solve

WIDTH = 16
MEMORY = 3  # compiles faster than the default


def elementwise(slope, offset):
    """A contraction without products over the batch, so that equality may be exact."""
    return lambda z: slope * jnp.sin(z) + offset


def test_a_sample_that_stopped_is_frozen():
    slope = jnp.array([0.1, 0.9, -0.9])[:, None]
    offset = jnp.linspace(0.5, 1.0, WIDTH)

    @jax.jit
    def run(slope):
        return solve(elementwise(slope, offset), jnp.zeros((3, WIDTH)), Solver(memory=MEMORY))

    z, report = run(slope)
    assert int(report.steps[0]) < int(report.steps.max())
    quick, steps = run(slope * 0 + slope[0])  # ends with the first sample
    assert int(steps.steps.max()) == int(report.steps[0])
    np.testing.assert_array_equal(z[0], quick[0])


@pytest.mark.parametrize('when', ['first', 'later'])
@pytest.mark.parametrize('method', ['anderson', 'plain'])
def test_nan_leaves_the_others_as_they_are(when, method):
    slope = jnp.array([0.8, 0.9, -0.9])[:, None]
    offset = jnp.linspace(0.5, 1.0, WIDTH)
    good = elementwise(slope, offset)
    bound = -1.0 if when == 'first' else 0.9

    def bad(z):  # the middle sample yields NaN as soon as an element exceeds the bound
        out = (jnp.arange(3) == 1) & (jnp.max(z, axis=1) > bound)
        return jnp.where(out[:, None], jnp.nan, good(z))

    z0 = jnp.full((3, WIDTH), 0.25)
    config = Solver(method, rtol=1e-5, max_iter=100, memory=MEMORY)
    z, report = jax.jit(lambda: solve(bad, z0, config))()
    expected, other = jax.jit(lambda: solve(good, z0, config))()
    np.testing.assert_array_equal(z[::2], expected[::2])
    np.testing.assert_array_equal(report.steps[::2], other.steps[::2])
    np.testing.assert_array_equal(report.status, [CONVERGED, NONFINITE, CONVERGED])
    np.testing.assert_array_equal(other.status, CONVERGED)
    if when == 'first':
        np.testing.assert_array_equal(z[1], z0[1])
        assert np.isinf(report.residual[1])
        assert int(report.steps[1]) == 1
    else:
        assert np.isfinite(z[1]).all()
        assert np.isfinite(report.residual[1])
        assert 1 < int(report.steps[1]) < int(other.steps[1])


@pytest.mark.parametrize('method', ['anderson', 'plain'])
@pytest.mark.parametrize('f', [lambda z: 3.0 * z * jnp.abs(z) + 1.0, lambda z: z * z + z + 1.0])
def test_a_divergent_map_gives_a_finite_result(method, f):
    """Neither has a fixed point above 0; plain iteration overflows, the second sample sooner."""
    finite = []

    def watched(z):
        jax.debug.callback(lambda z: finite.append(np.isfinite(z).all(axis=1)), z)
        return f(z)

    config = Solver(method, max_iter=40, memory=MEMORY)
    z, report = jax.jit(lambda z: solve(watched, z, config))(jnp.array([[1.0] * 3, [1e8] * 3]))
    jax.effects_barrier()
    assert np.isfinite(z).all()
    assert np.isfinite(report.residual).all()
    assert CONVERGED not in np.asarray(report.status)
    if method == 'plain':
        np.testing.assert_array_equal(report.status, NONFINITE)
        assert int(report.steps[1]) + 2 < int(report.steps[0])
        assert np.stack(finite).all()  # f sees a finite point while it runs on for the first


def test_an_unattainable_tolerance_gives_the_best_point():
    """z = z^2 + z + 1 has no solution; its residual z^2 + 1 is least where z = 0."""
    evaluated = []

    def f(z):
        jax.debug.callback(lambda z: evaluated.append(np.asarray(z)), z, ordered=True)
        return z * z + z + 1.0

    config = Solver(max_iter=12, memory=MEMORY)
    z, report = jax.jit(lambda z: solve(f, z, config))(jnp.array([[0.7], [-0.2]]))
    jax.effects_barrier()
    points = np.stack(evaluated)[..., 0]  # [steps, B]
    assert points.shape == (12, 2)
    nearest = points[np.abs(points).argmin(0), np.arange(2)]
    np.testing.assert_allclose(z[:, 0], nearest**2 + nearest + 1, rtol=1e-6)
    np.testing.assert_array_equal(report.status, MAX_ITER)
    np.testing.assert_array_equal(report.steps, 12)
    relative = (nearest**2 + 1) / np.abs(nearest**2 + nearest + 1)
    np.testing.assert_allclose(report.residual, relative, rtol=1e-6)


def test_a_fixed_point_at_zero_is_reached_by_the_absolute_tolerance():
    def run(atol):
        return solve(lambda z: -0.5 * z, jnp.ones((2, 3)), Solver('plain', atol=atol))[1]

    np.testing.assert_array_equal(run(1e-6).status, CONVERGED)
    np.testing.assert_array_equal(run(0.0).status, MAX_ITER)
    here = solve(jnp.zeros_like, jnp.zeros((2, 3)), Solver(atol=0.0))[1]  # already there
    np.testing.assert_array_equal(here.status, CONVERGED)
    np.testing.assert_array_equal(here.steps, 1)
