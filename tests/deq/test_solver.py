import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.deq.solver import CONVERGED, MAX_ITER, Solver, residuals, solve

BATCH, WIDTH = 6, 16
MEMORY = 3  # compiles faster than the default; what depends on it says so


def cell(seed=0, lipschitz=0.8, width=WIDTH, batch=BATCH):
    """Weights [D, D] of that spectral norm and inputs [B, D] of f(z) = tanh(z w + x), float64."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(width, width))
    w *= lipschitz / np.linalg.norm(w, 2)
    assert max(abs(np.linalg.eigvals(w))) < 1 or lipschitz > 1
    return w, rng.normal(size=(batch, width))


def solution(w, x, steps=2000):
    z = np.zeros_like(x)
    for _ in range(steps):
        z = np.tanh(z @ w + x)
    return z


def solve_cell(w, x, z0=None, dtype=jnp.float32, **config):
    w, x = jnp.asarray(w, dtype), jnp.asarray(x, dtype)
    z0 = jnp.zeros_like(x) if z0 is None else z0
    solver = Solver(**{'memory': MEMORY, **config})
    return jax.jit(lambda w, x, z0: solve(lambda z: jnp.tanh(z @ w + x), z0, solver))(w, x, z0)


def plainly(f, z, steps, memory, beta, ridge, restart):
    """Anderson's method in numpy for one sample [n], by the bordered system of the constraint.

    Returns the value of f at the point of the smallest residual, and the number of restarts.
    """
    ahead, residuals = [], []
    best, best_norm, lowest, restarts = z, np.inf, np.inf, 0
    for _ in range(steps):
        fz = f(z)
        r = fz - z
        size = np.linalg.norm(r)
        if size < best_norm:
            best, best_norm = fz, size
        if size > restart * lowest:
            ahead, residuals, lowest, z = [], [], np.inf, best
            restarts += 1
            continue
        lowest = min(lowest, size)
        ahead, residuals = [*ahead, z + beta * r][-memory:], [*residuals, r][-memory:]
        m = len(ahead)
        products = np.array([[a @ b for a in residuals] for b in residuals])
        system = np.zeros((m + 1, m + 1))
        system[:m, :m] = (products + ridge * np.diag(np.diag(products))) / size**2
        system[m, :m] = system[:m, m] = 1
        weights = np.linalg.solve(system, np.eye(m + 1)[m])[:m]
        z = np.sum([a * y for a, y in zip(weights, ahead, strict=True)], axis=0)
    return best, restarts


@pytest.mark.parametrize(
    ('lipschitz', 'memory', 'beta', 'steps'), [(0.8, 5, 1.0, 9), (0.9, 3, 0.6, 12), (6, 4, 1.0, 22)]
)
def test_equals_a_plain_implementation(lipschitz, memory, beta, steps):
    w, x = cell(lipschitz=lipschitz)
    config = {'memory': memory, 'ridge': 1e-6, 'restart': 2.0}
    with jax.enable_x64(True):
        ours, report = solve_cell(
            w, x, dtype=jnp.float64, damping=beta, max_iter=steps, rtol=1e-15, **config
        )
    assert ours.dtype == np.float64
    restarts = 0
    for row, inputs in zip(np.asarray(ours), x, strict=True):
        theirs, again = plainly(
            lambda z, inputs=inputs: np.tanh(z @ w + inputs), 0 * inputs, steps, beta=beta, **config
        )
        np.testing.assert_allclose(row, theirs, rtol=0, atol=1e-8)
        restarts += again
    assert (restarts > 0) == (lipschitz > 1)
    np.testing.assert_array_equal(report.steps, steps)


@pytest.mark.parametrize('method', ['anderson', 'damped', 'plain'])
@pytest.mark.parametrize('rtol', [1e-2, 1e-5])
def test_error_follows_the_tolerance(method, rtol):
    w, x = cell()
    z, report = solve_cell(w, x, method=method, rtol=rtol, max_iter=200, damping=0.9)
    exact = solution(w, x)
    error = np.linalg.norm(z - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert error.max() < 20 * rtol
    np.testing.assert_array_equal(report.status, CONVERGED)
    assert float(report.residual.max()) <= 1.0001 * rtol


def test_a_linear_map_of_few_dimensions_is_solved_in_as_many_steps():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(4, 4))
    a *= 0.95 / max(abs(np.linalg.eigvals(a)))
    b = rng.normal(size=(BATCH, 4))
    config = Solver(rtol=1e-8, memory=5, ridge=1e-14)
    with jax.enable_x64(True):
        z, report = solve(lambda z: z @ a + b, jnp.zeros_like(b), config)
        plain = solve(lambda z: z @ a + b, jnp.zeros_like(b), Solver('plain', rtol=1e-8))[1]
    np.testing.assert_allclose(z, b @ np.linalg.inv(np.eye(4) - a), rtol=1e-6)
    assert int(report.steps.max()) <= 6
    np.testing.assert_array_equal(plain.status, MAX_ITER)


def test_damped_iteration_takes_damped_steps():
    w, x = cell()
    ours, _ = solve_cell(w, x, method='damped', damping=0.3, max_iter=7, rtol=0.0)
    z = np.zeros_like(x)
    for _ in range(6):
        z = z + 0.3 * (np.tanh(z @ w + x) - z)
    np.testing.assert_allclose(ours, np.tanh(z @ w + x), atol=1e-5)


def test_the_batch_changes_nothing():
    w, x = cell()
    x = x * np.logspace(-2, 1, BATCH)[:, None]  # of very different difficulty
    together, report = solve_cell(w, x, rtol=1e-5)
    assert len(set(np.asarray(report.steps).tolist())) > 2
    for i in range(BATCH):
        alone, one = solve_cell(w, x[i : i + 1], rtol=1e-5)
        np.testing.assert_allclose(together[i], alone[0], rtol=0, atol=1e-6)
        assert int(one.steps[0]) == int(report.steps[i])


def test_a_start_at_the_solution_takes_one_step():
    w, x = cell()
    z, cold = solve_cell(w, x, rtol=1e-6)
    _, warm = solve_cell(w, x, z0=z, rtol=1e-5)
    np.testing.assert_array_equal(warm.steps, 1)
    assert int(cold.steps.min()) > 5


def test_half_precision_keeps_a_float32_state():
    w, x = cell()
    w16, x16 = jnp.asarray(w, jnp.bfloat16), jnp.asarray(x, jnp.bfloat16)

    def run(z0):
        return solve(
            lambda z: jnp.tanh(z.astype(jnp.bfloat16) @ w16 + x16),
            z0,
            Solver(rtol=1e-2, memory=MEMORY),
        )

    for dtype in (jnp.float32, jnp.bfloat16):
        z, report = jax.jit(run)(jnp.zeros((BATCH, WIDTH), dtype))
        assert z.dtype == dtype
        np.testing.assert_array_equal(report.status, CONVERGED)
        np.testing.assert_allclose(np.asarray(z, np.float64), solution(w, x), atol=0.03)
        (loop,) = [e for e in jax.make_jaxpr(run)(z).jaxpr.eqns if e.primitive.name == 'while']
        carried = {str(v.aval.dtype) for v in loop.outvars if v.aval.ndim >= 2}
        assert carried == {'float32'}


def test_a_fixed_number_of_steps_equals_the_loop_and_can_be_unrolled():
    w, x = cell()
    z, report = solve_cell(w, x, rtol=1e-5)
    again, other = solve_cell(w, x, rtol=1e-5, fixed_length=True)
    np.testing.assert_allclose(z, again, atol=1e-6)
    np.testing.assert_array_equal(report.steps, other.steps)

    def total(x, **config):
        config = Solver(memory=MEMORY, **config)
        z, _ = solve(lambda z: jnp.tanh(z @ w + x), jnp.zeros_like(x), config)
        return jnp.sum(z**3)

    with jax.enable_x64(True):
        unrolled = jax.jit(jax.grad(lambda x: total(x, fixed_length=True, rtol=1e-11)))
        grad = unrolled(jnp.asarray(x))
        exact = solution(w, x)
    # Rows: u = g + u J with J = d tanh(z w + x) / dz.
    for u, z, g in zip(np.asarray(grad), exact, 3 * exact**2, strict=True):
        slope = 1 - z * z
        adjoint = np.linalg.solve(np.eye(WIDTH) - (w * slope), g)  # (I - J)^T u = g
        np.testing.assert_allclose(u, adjoint * slope, atol=1e-7)
    with pytest.raises(ValueError, match=r'[Rr]everse-mode'):
        jax.grad(total)(jnp.asarray(x, jnp.float32), rtol=1e-5)


def test_transforms_change_nothing():
    w, x = cell()
    w, x = jnp.asarray(w, jnp.float32), jnp.asarray(x, jnp.float32)
    xs = jnp.stack([x, 3 * x, -x])

    def run(x):
        config = Solver(rtol=1e-5, memory=MEMORY)
        return solve(lambda z: jnp.tanh(z @ w + x), jnp.zeros_like(x), config)

    once = jax.jit(run)
    alone = [once(x) for x in xs]
    mapped = jax.jit(jax.vmap(run))(xs)
    scanned = jax.jit(lambda xs: jax.lax.scan(lambda c, x: (c, run(x)), 0, xs)[1])(xs)
    for i, (z, report) in enumerate(alone):
        for other, reports in (mapped, scanned):
            np.testing.assert_allclose(other[i], z, atol=1e-5)
            np.testing.assert_array_equal(reports.steps[i], report.steps)


def test_any_shape_of_a_sample():
    w, x = cell()
    flat, _ = solve_cell(w, x)
    shape = (BATCH, 2, 4, 2)

    def f(z):
        assert z.shape == shape
        return jnp.tanh(z.reshape(BATCH, -1) @ w + x).reshape(shape)

    z, _ = jax.jit(lambda z: solve(f, z, Solver(memory=MEMORY)))(jnp.zeros(shape))
    np.testing.assert_allclose(z.reshape(BATCH, -1), flat, atol=1e-6)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('method', 'newton'),
        ('max_iter', 0),
        ('rtol', -1e-3),
        ('rtol', float('nan')),
        ('atol', float('inf')),
        ('memory', 0),
        ('memory', 99),
        ('damping', 0.0),
        ('damping', 1.5),
        ('ridge', 0.0),
        ('restart', 1.0),
    ],
)
def test_bad_options_are_refused(name, value):
    with pytest.raises(ValueError, match=f'{name} .*{value}.*allowed'):
        Solver(**{name: value})


@pytest.mark.parametrize(
    ('f', 'z0', 'message'),
    [
        (lambda z: z, np.zeros((2, 3), np.int32), 'int32'),
        (lambda z: z, np.float32(1.0), r'float32\[\]'),
        (lambda z: z[:, :2], np.zeros((2, 3), np.float32), r'\[2, 2\] for \[2, 3\]'),
    ],
)
def test_bad_maps_are_refused(f, z0, message):
    with pytest.raises(ValueError, match=message):
        solve(f, jnp.asarray(z0), Solver())


@pytest.mark.parametrize('method', ['anderson', 'plain'])
def test_residuals_are_those_of_shorter_solves(method):
    w, x = cell()
    most = 4
    found = residuals(
        lambda z: jnp.tanh(z @ w + x), jnp.zeros(x.shape), Solver(method, most, 0.0, memory=MEMORY)
    )
    shorter = [
        solve_cell(w, x, method=method, max_iter=n + 1, rtol=0.0)[1].residual for n in range(most)
    ]
    assert found.shape == (most, BATCH) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, shorter, rtol=1e-4)


def test_residuals_rest_where_a_sample_has_converged():
    w, x = cell()
    solver = Solver(max_iter=12, rtol=0.05, memory=MEMORY)
    found = np.asarray(residuals(lambda z: jnp.tanh(z @ w + x), jnp.zeros(x.shape), solver))
    steps = np.asarray(solve_cell(w, x, max_iter=12, rtol=0.05)[1].steps)
    assert np.all(steps < 12)
    for sample, stopped in enumerate(steps):
        assert np.all(found[stopped - 1 :, sample] == found[-1, sample])
        assert found[-1, sample] <= 0.05 < found[stopped - 2, sample]
