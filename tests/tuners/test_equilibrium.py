"""Equilibrium blocks against dense Jacobians and the tutorial's formula."""

from dataclasses import replace
from functools import cache, partial

import jax
import numpy as np
import pytest

from jax_prompt.tuners.equilibrium import EquilibriumBlock


def _normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@cache
def _block(block):
    """The block's initial parameters."""
    return jax.tree.map(np.asarray, jax.jit(block.init)(jax.random.key(0)))


@partial(jax.jit, static_argnames='block')
def _dense(block, params, x, z):
    weights = block.prepare(params)
    return jax.jacobian(lambda z: block.cell((weights, x), z).ravel())(z)


def _jacobian(block, params, shape):
    z, x = _normal(5, 1, *shape), _normal(6, 1, *shape)
    return np.asarray(_dense(block, params, x, z)).reshape(z.size, z.size)


@pytest.mark.parametrize('kind', ['clipped', 'opteq'])
@pytest.mark.parametrize('layers', [1, 2])
@pytest.mark.parametrize(('side', 'shape'), [(3, (5, 5, 3)), (0, (12,))])
def test_blocks_are_contractions_however_large_their_kernels(kind, layers, side, shape):
    block = EquilibriumBlock(shape[-1], 16, side, layers, kind, 0.9)
    params = jax.tree.map(lambda leaf: 50.0 * leaf, _block(block))
    norm = np.linalg.norm(_jacobian(block, params, shape), 2)
    assert norm <= 0.9 + 1e-5
    assert norm > 1e-3  # large kernels are scaled, not switched off
    free = replace(block, kappa=0.0)
    assert np.linalg.norm(_jacobian(free, params, shape), 2) > 1.0


def test_opteq_has_a_symmetric_jacobian():
    block = EquilibriumBlock(3, 8, 3, kind='opteq')
    jacobian = _jacobian(block, _block(block), (4, 4, 3))
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-7)
    assert np.linalg.norm(jacobian, 2) > 0.01


def test_small_kernels_are_not_clipped():
    block = EquilibriumBlock(3, 8, 3)
    params = _block(block)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(block.prepare)(params), params)


def test_the_tutorials_block_is_the_tutorials_formula():
    block = EquilibriumBlock(3, 16, 3, kind='tutorial')
    p = jax.tree.map(lambda a: 20.0 * a, _block(block))['layer_00']
    z, x = _normal(1, 2, 2, 6, 6, 3)

    def norm(x, groups, p):
        grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
        mean = grouped.mean((1, 3), keepdims=True)
        std = np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-5)
        return ((grouped - mean) / std).reshape(x.shape) * p['scale'] + p['bias']

    def conv(x, kernel):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = [padded[:, i : i + 6, j : j + 6] for i in range(3) for j in range(3)]
        return sum(
            w @ k for w, k in zip(windows, kernel.reshape(9, *kernel.shape[2:]), strict=True)
        )

    inner = norm(np.maximum(conv(z, p['in']['kernel']), 0), 8, p['norm1'])
    y = norm(x + conv(inner, p['out']['kernel']), 3, p['norm2'])
    want = norm(np.maximum(z + y, 0), 3, p['norm3'])
    got = jax.jit(block.cell)(({'layer_00': p}, x), z)
    np.testing.assert_allclose(got, want, atol=2e-4)
