import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deq_cell import BATCH, assert_close, cell, loss, problem, settings
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jax_prompt.deq.fixed_point import NAME, Gradient, fixed_point, probe
from jax_prompt.deq.solver import NONFINITE, Solver, solve


def test_the_batch_changes_nothing_and_nan_stays_in_its_sample():
    args, g = problem()
    forward, backward = settings(1e-5)

    def f(args, z):  # without products over the batch, so that equality may be exact
        turned = jnp.sum(z[:, :, None] * args['w'], axis=1)
        return jnp.tanh(turned + args['x'])

    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def run(x, probe, g):
        z = fixed_point(f, {**args, 'x': x}, jnp.zeros_like(x), forward, backward, probe)
        return jnp.sum(g * z)

    expected, seen = run(args['x'], probe(BATCH), g)
    spoilt, report = run(args['x'].at[2].set(jnp.nan), probe(BATCH), g)
    others = np.arange(BATCH) != 2
    np.testing.assert_array_equal(spoilt[others], expected[others])
    np.testing.assert_array_equal(report[others], seen[others])
    np.testing.assert_array_equal(report[2, jnp.array([2, 5])], NONFINITE)
    alone, _ = run(args['x'][:1], probe(1), g[:1])
    np.testing.assert_allclose(expected[:1], alone, rtol=0, atol=1e-6)


def test_jit_vmap_scan_and_remat_change_nothing():
    args, g = problem()
    config = settings(1e-6)
    xs = jnp.stack([args['x'], -args['x'], 2 * args['x']])

    def one(x):
        return jax.grad(lambda x: loss({**args, 'x': x}, g, *config))(x)

    def scanned(xs):
        return jax.lax.scan(
            lambda total, x: (total + loss({**args, 'x': x}, g, *config), 0), 0.0, xs
        )[0]

    @jax.checkpoint
    def remat(x):
        return loss({**args, 'x': x}, g, *config)

    once = jax.jit(one)
    expected = jnp.stack([once(x) for x in xs])
    assert_close(jax.jit(jax.vmap(one))(xs), expected, 1e-5)
    assert_close(jax.jit(jax.grad(scanned))(xs), expected, 1e-5)
    assert_close(jax.jit(jax.grad(remat))(xs[0]), expected[0], 1e-5)


def test_rematerialisation_under_the_policy_does_not_solve_again():
    args, g = problem()
    config = settings(1e-4)

    def loops(policy):
        remat = jax.checkpoint(lambda args, p: loss(args, g, *config, p), policy=policy)
        step = jax.jit(jax.value_and_grad(lambda args, p: remat(args, p) ** 2, argnums=(0, 1)))
        return step.lower(args, probe(BATCH)).compile().as_text().count(' while(')

    policies = jax.checkpoint_policies
    assert loops(policies.save_only_these_names(NAME)) == 2
    assert loops(policies.nothing_saveable) == 3


@pytest.mark.parametrize('place', ['shard_map', 'sharded'])
def test_devices_share_the_batch(place):
    args, g = problem()
    forward, backward = settings(1e-6)
    mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    specs = {'w': P(), 'x': P('data')}

    def value(args, g, p):
        return loss(args, g, forward, backward, p)

    expected, seen = jax.jit(jax.grad(value, argnums=(0, 2)))(args, g, probe(BATCH))
    if place == 'shard_map':
        part = jax.shard_map(
            lambda args, g, p: jax.lax.psum(value(args, g, p), 'data'),
            mesh=mesh,
            in_specs=(specs, P('data'), P('data')),
            out_specs=P(),
        )
    else:
        part = value
        named = jax.tree.map(partial(NamedSharding, mesh), specs)
        args = jax.device_put(args, named)
        g = jax.device_put(g, NamedSharding(mesh, P('data')))
    run = jax.jit(jax.grad(part, argnums=(0, 2)))
    grads, reports = run(args, g, probe(BATCH))
    assert_close(grads, expected, 1e-5)
    np.testing.assert_allclose(reports[:, [0, 2, 3, 5]], seen[:, [0, 2, 3, 5]], atol=1)
    if place == 'sharded':
        text = run.lower(args, g, probe(BATCH)).compile().as_text()
        assert 'all-reduce' in text and 'all-gather' not in text


def scratch(max_iter, fixed_length=False):
    """Bytes of temporary memory of a gradient."""
    args, g = problem(batch=512)
    solver = Solver(rtol=0.0, max_iter=max_iter, memory=2, fixed_length=fixed_length)

    def value(args):
        if fixed_length:
            return jnp.sum(g * solve(partial(cell, args), jnp.zeros_like(g), solver)[0])
        return loss(args, g, solver, Gradient(solver=solver))

    compiled = jax.jit(jax.grad(value)).lower(args).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_steps():
    few, more, many = (scratch(n) for n in (5, 20, 80))
    assert math.isclose(few, more, rel_tol=0.02)
    assert math.isclose(few, many, rel_tol=0.02)
    assert scratch(20, fixed_length=True) > 3 * more  # what the comparison would see
