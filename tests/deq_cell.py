"""A small cell and its gradient by `fixed_point`, for the tests of jax_prompt/deq."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.deq.fixed_point import Gradient, fixed_point
from jax_prompt.deq.solver import Solver

BATCH, WIDTH = 8, 16


def cell(args, z):
    return jnp.tanh(z @ args['w'] + args['x'])


def problem(dtype='float32', lipschitz=0.8, batch=BATCH):
    """Arguments of `cell`, with a spectral radius below 1 everywhere, and a cotangent [B, D]."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(WIDTH, WIDTH))
    w *= lipschitz / np.linalg.norm(w, 2)
    assert np.linalg.norm(w, 2) < 1
    args = {'w': w, 'x': rng.normal(size=(batch, WIDTH))}
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), (args, rng.normal(size=(batch, WIDTH))))


def settings(rtol, memory=2, max_iter=200, **gradient):
    """Forward and backward configuration; a short memory compiles faster."""
    solver = Solver(rtol=rtol, atol=0.0, memory=memory, max_iter=max_iter)
    return solver, Gradient(solver=solver, **gradient)


def loss(args, g, forward, backward, probe=None):
    z0 = jnp.zeros_like(args['x'])
    return jnp.sum(g * fixed_point(cell, args, z0, forward, backward, probe))


def gradient(args, g, *config, probe=None):
    """The gradients of args, and of the probe where there is one."""
    if probe is None:
        return jax.jit(jax.grad(lambda args: loss(args, g, *config)))(args)
    return jax.jit(jax.grad(lambda args, p: loss(args, g, *config, p), (0, 1)))(args, probe)


def assert_close(ours, theirs, tolerance):
    """Asserts that trees agree, relative to the largest entry of each leaf."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        b = np.asarray(b, np.float64)
        np.testing.assert_allclose(np.asarray(a), b, rtol=0, atol=tolerance * np.abs(b).max())
