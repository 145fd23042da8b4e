from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deq_cell import BATCH, WIDTH, assert_close, cell, gradient, loss, problem, settings

from jax_prompt.deq.fixed_point import (
    Gradient,
    fixed_point,
    fixed_point_with_report,
    probe,
)
from jax_prompt.deq.solver import CONVERGED, MAX_ITER, Solver

TIGHT = {'float32': 2e-7, 'float64': 1e-13}


def dense(args, g, steps=None):
    """The gradient in float64 by one dense system a sample: u (I - J) = g, or a series of it."""
    w, x, g = (np.asarray(a, np.float64) for a in (args['w'], args['x'], g))
    z = np.zeros_like(x)
    for _ in range(2000):
        z = np.tanh(z @ w + x)
    w_bar, x_bar = np.zeros_like(w), np.zeros_like(x)
    for i in range(len(x)):
        slope = 1 - z[i] ** 2
        jacobian = slope[:, None] * w.T  # J[a, b] = d f_a / d z_b
        u = np.linalg.solve((np.eye(WIDTH) - jacobian).T, g[i])
        if steps is not None:
            u = sum(np.linalg.matrix_power(jacobian.T, k) @ g[i] for k in range(steps))
        x_bar[i] = u * slope
        w_bar += np.outer(z[i], x_bar[i])
    return {'w': w_bar, 'x': x_bar}


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float64', 1e-10), ('float32', 1e-5)])
@pytest.mark.parametrize('memory', [1, 5])
def test_gradient_equals_the_dense_solve(dtype, tolerance, memory):
    with jax.enable_x64(dtype == 'float64'):
        args, g = problem(dtype)
        assert_close(gradient(args, g, *settings(TIGHT[dtype], memory)), dense(args, g), tolerance)


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float64', 1e-10), ('float32', 1e-5)])
def test_gradient_equals_600_unrolled_steps(dtype, tolerance):
    with jax.enable_x64(dtype == 'float64'):
        args, g = problem(dtype)

        @jax.jit
        @jax.grad
        def unrolled(args):
            start = jnp.zeros_like(g)
            z, _ = jax.lax.scan(lambda z, _: (cell(args, z), None), start, length=600)
            return jnp.sum(g * z)

        assert_close(gradient(args, g, *settings(TIGHT[dtype])), unrolled(args), tolerance)


def test_solution_and_gradient_equal_optimistix():
    optimistix = pytest.importorskip('optimistix')
    with jax.enable_x64(True):
        args, g = problem('float64')
        solver = optimistix.FixedPointIteration(rtol=1e-13, atol=1e-13)

        def theirs(args):
            solution = optimistix.fixed_point(
                lambda z, args: cell(args, z), solver, jnp.zeros_like(g), args, max_steps=2000
            )
            return jnp.sum(g * solution.value)

        ours = partial(loss, g=g, forward=settings(1e-13)[0], backward=settings(1e-13)[1])
        assert_close(jax.jit(ours)(args), jax.jit(theirs)(args), 1e-10)
        both = [jax.jit(jax.grad(f))(args) for f in (ours, theirs)]
        assert_close(*both, 1e-10)


def test_gradient_equals_finite_differences():
    with jax.enable_x64(True):
        args, g = problem('float64')
        config = settings(1e-14)
        value = jax.jit(lambda args: loss(args, g, *config))
        rng = np.random.default_rng(1)
        way = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), args)
        step = 1e-5
        ahead, behind = (
            value(jax.tree.map(lambda a, d, s=s: a + s * step * d, args, way)) for s in (1, -1)
        )
        slopes = jax.tree.map(lambda a, b: jnp.sum(a * b), gradient(args, g, *config), way)
        np.testing.assert_allclose(
            sum(jax.tree.leaves(slopes)), (ahead - behind) / (2 * step), rtol=1e-7
        )


@pytest.mark.parametrize('rtol', [1e-2, 1e-4])
def test_error_of_the_gradient_follows_the_tolerance(rtol):
    args, g = problem()
    assert_close(gradient(args, g, *settings(rtol)), dense(args, g), 20 * rtol)


@pytest.mark.parametrize(
    ('kind', 'terms', 'steps'), [('one_step', 9, 1), ('neumann', 1, 1), ('neumann', 4, 4)]
)
def test_truncated_gradients_equal_their_series(kind, terms, steps):
    with jax.enable_x64(True):
        args, g = problem('float64')
        ours = gradient(args, g, *settings(1e-13, kind=kind, terms=terms))
        assert_close(ours, dense(args, g, steps), 1e-10)


@pytest.mark.parametrize('terms', [1, 4])
def test_phantom_gradient_equals_unrolled_damped_steps(terms):
    with jax.enable_x64(True):
        args, g = problem('float64')
        forward, backward = settings(1e-14, kind='phantom', terms=terms, damping=0.7)
        z = jax.jit(lambda args: fixed_point(cell, args, jnp.zeros_like(g), forward))(args)

        @jax.jit
        @jax.grad
        def unrolled(args):
            y = jax.lax.stop_gradient(z)
            for _ in range(terms):
                y = 0.3 * y + 0.7 * cell(args, y)
            return jnp.sum(g * y)

        assert_close(gradient(args, g, forward, backward), unrolled(args), 1e-10)


def test_probe_reports_both_solves():
    args, g = problem()
    forward, _ = settings(1e-4)
    backward = Gradient(solver=Solver(rtol=1e-6, max_iter=5, memory=2))
    grads, seen = gradient(args, g, forward, backward, probe=probe(BATCH))
    assert seen.shape == (BATCH, 6) and seen.dtype == np.float32
    _, report = jax.jit(
        lambda args: fixed_point_with_report(cell, args, jnp.zeros_like(g), forward)
    )(args)
    np.testing.assert_array_equal(seen[:, 0], report.steps)
    np.testing.assert_allclose(seen[:, 1], report.residual, rtol=1e-3)
    np.testing.assert_array_equal(seen[:, 2], CONVERGED)
    np.testing.assert_array_equal(seen[:, 3], 5)
    np.testing.assert_array_equal(seen[:, 5], MAX_ITER)
    assert float(seen[:, 4].min()) > 1e-6
    assert_close(grads, gradient(args, g, forward, backward), 1e-6)


@pytest.mark.parametrize(('kind', 'steps'), [('one_step', 1), ('phantom', 4)])
def test_probe_reports_truncated_gradients(kind, steps):
    args, g = problem()
    config = settings(1e-5, kind=kind, terms=4, damping=0.5)
    _, seen = gradient(args, g, *config, probe=probe(BATCH))
    np.testing.assert_array_equal(seen[:, 3], steps)
    np.testing.assert_array_equal(seen[:, 5], CONVERGED)
    assert np.all((seen[:, 4] > 1e-4) & (seen[:, 4] < 1))


def test_z0_has_no_gradient_and_other_types_are_arguments():
    args, g = problem()
    args |= {'index': jnp.arange(BATCH)[::-1], 'key': jax.random.key(3), 'flag': jnp.array(True)}

    def f(args, z):
        shift = 0.1 * jax.random.normal(args['key'], (BATCH, 1))[args['index']]
        return jnp.where(args['flag'], cell(args, z) + shift, z)

    def value(floats, rest, z0):
        return jnp.sum(g * fixed_point(f, {**floats, **rest}, z0, *settings(1e-6)))

    floats = {name: args.pop(name) for name in ('w', 'x')}
    value_grad = jax.jit(jax.grad(value, argnums=(0, 2)))
    grads, z0_bar = value_grad(floats, args, jnp.ones_like(g))
    np.testing.assert_array_equal(z0_bar, 0.0)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
    grad_of_all = jax.jit(
        lambda tree: jax.vjp(lambda t: fixed_point(f, t, jnp.ones_like(g), *settings(1e-6)), tree)[
            1
        ](g)[0]
    )({**floats, **args})
    assert_close({'w': grad_of_all['w'], 'x': grad_of_all['x']}, grads, 1e-6)


def test_the_scale_of_the_cotangent_changes_no_step():
    args, g = problem()
    config = settings(1e-4)
    run = jax.jit(jax.grad(lambda p, args, g: loss(args, g, *config, p), argnums=(0, 1)))
    first, expected = run(probe(BATCH), args, g)
    assert float(first[:, 3].min()) > 3
    for scale in (1e-2, 1e-5, 1e-10, 1e-25):
        seen, grads = run(probe(BATCH), args, g * scale)
        assert np.abs(seen[:, 3] - first[:, 3]).max() <= 1
        np.testing.assert_array_equal(seen[:, 5], CONVERGED)
        assert_close(jax.tree.map(lambda a, s=scale: np.asarray(a) / s, grads), expected, 1e-3)
    seen, grads = run(probe(BATCH), args, g * 0)
    np.testing.assert_array_equal(seen[:, 3], 1)
    np.testing.assert_array_equal(seen[:, 5], CONVERGED)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(grads))


def test_half_precision():
    args, g = problem()
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), args)
    forward, backward = settings(1e-2)

    def value(args):
        z0 = jnp.zeros(g.shape)
        z = fixed_point(lambda a, z: cell(a, z.astype(jnp.bfloat16)), args, z0, forward, backward)
        assert z.dtype == jnp.float32
        return jnp.sum(g * z)

    grads = jax.jit(jax.grad(value))(half)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(grads))
    floats = jax.tree.map(lambda a: np.asarray(a, np.float64), grads)
    assert_close(floats, dense(args, g), 0.03)


@pytest.mark.parametrize(
    ('name', 'value'), [('kind', 'exact'), ('terms', 0), ('damping', 0.0), ('damping', 2.0)]
)
def test_bad_options_are_refused(name, value):
    with pytest.raises(ValueError, match=f'{name} .*{value}.*allowed'):
        Gradient(**{name: value})
