"""The bounds against dense singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.nn.bounds import operator_bound, spectral_norm
from jax_prompt.nn.convolution import convolve


def _dense(kernel, side=5):
    """The convolution as a matrix, column by column."""
    size = side * side * kernel.shape[2]
    units = jnp.eye(size).reshape(size, side, side, kernel.shape[2])
    return np.asarray(convolve(units, kernel)).reshape(size, -1)


@pytest.mark.parametrize('seed', range(4))
def test_the_bound_holds_for_convolutions(seed):
    kernel = jax.random.normal(jax.random.key(seed), (3, 3, 3, 8))
    true = np.linalg.norm(_dense(kernel, 8), 2)
    assert true <= float(operator_bound(kernel)) <= 3.0 * true


def test_the_reshaped_kernel_alone_is_no_bound():
    kernel = jnp.ones((3, 3, 1, 1))
    true = np.linalg.norm(_dense(kernel, 12), 2)
    assert np.linalg.norm(np.asarray(kernel).reshape(9, 1), 2) < true  # 3 against 8.6
    assert float(operator_bound(kernel)) >= true


def test_the_bound_of_a_matrix_is_its_norm_and_has_its_gradient():
    matrix = jax.random.normal(jax.random.key(0), (6, 9))
    u, s, vt = np.linalg.svd(np.asarray(matrix))
    assert float(operator_bound(matrix)) == pytest.approx(s[0], rel=1e-5)
    np.testing.assert_allclose(jax.grad(spectral_norm)(matrix), np.outer(u[:, 0], vt[0]), atol=1e-4)


def test_a_zero_kernel_has_a_finite_gradient():
    assert np.isfinite(np.asarray(jax.grad(operator_bound)(jnp.zeros((3, 3, 2, 4))))).all()
