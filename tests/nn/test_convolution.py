"""Convolutions with their own gradients against XLA's, and pooling against a window reduction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.nn.convolution import convolve, depthwise, max_pool, transpose_kernel


def _plain(x, kernel, stride):
    r = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride,) * 2, ((r, r),) * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


def _with_gradients(function, inputs, g):
    """Returns function(*inputs) and the gradients by the inputs where g is that of the result."""

    @jax.jit
    def compute(inputs, g):
        out, backward = jax.vjp(function, *inputs)
        return out, backward(g)

    return compute(inputs, g)


def _normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize('channels', [(3, 5), (20, 4), (20, 18), (64, 3)])
@pytest.mark.parametrize(
    ('k', 'stride', 'size'),
    [(1, 1, 5), (1, 2, 7), (3, 1, 6), (3, 2, 8), (3, 2, 7), (7, 2, 16), (7, 2, 15), (5, 3, 11)],
)
def test_values_and_gradients_are_those_of_a_plain_convolution(k, stride, size, channels):
    x, kernel = _normal(0, 2, size, size + 1, channels[0]), _normal(1, k, k, *channels)
    plain = lambda *a: _plain(*a, stride)  # noqa: E731
    g = _normal(2, *jax.eval_shape(plain, x, kernel).shape)
    want, expected = _with_gradients(plain, (x, kernel), g)
    got, own = _with_gradients(lambda *a: convolve(*a, stride), (x, kernel), g)
    np.testing.assert_allclose(got, want, atol=1e-4)
    for a, b in zip(own, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_members_of_a_population_each_have_their_own_gradient():
    x, kernels = _normal(0, 2, 6, 6, 3), _normal(1, 2, 3, 3, 3, 4)
    grad = jax.grad(lambda kernel: jnp.sum(convolve(x, kernel, 2) ** 2))
    got = jax.jit(jax.vmap(grad))(kernels)
    grad = jax.jit(grad)
    for one, kernel in zip(got, kernels, strict=True):
        np.testing.assert_allclose(one, grad(kernel), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('size', [6, 7])
def test_the_maximum_over_windows_and_its_gradient(size):
    x = _normal(0, 2, size, size + 1, 3)

    def reference(x):
        pads = ((0, 0), (1, 1), (1, 1), (0, 0))
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)

    g = _normal(1, *jax.eval_shape(reference, x).shape)
    want, expected = _with_gradients(reference, (x,), g)
    got, own = _with_gradients(max_pool, (x,), g)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(own[0], expected[0], atol=1e-6)


def test_the_transposed_kernel_is_the_transposed_operator():
    x, y, kernel = _normal(0, 1, 5, 5, 2), _normal(1, 1, 5, 5, 4), _normal(2, 3, 3, 2, 4)
    there = np.sum(jax.jit(convolve)(x, kernel) * y)
    back = np.sum(x * jax.jit(lambda y, kernel: convolve(y, transpose_kernel(kernel)))(y, kernel))
    np.testing.assert_allclose(there, back, rtol=1e-5)


@pytest.mark.parametrize('k', [3, 7])
def test_a_depthwise_convolution_treats_each_channel_by_itself(k):
    x, kernel, g = _normal(0, 2, 5, 6, 3), _normal(1, k, k, 1, 3), _normal(2, 2, 5, 6, 3)

    def reference(x, kernel):
        parts = [_plain(x[..., i : i + 1], kernel[..., i : i + 1], 1) for i in range(3)]
        return jnp.concatenate(parts, axis=-1)

    want, expected = _with_gradients(reference, (x, kernel), g)
    got, own = _with_gradients(depthwise, (x, kernel), g)
    np.testing.assert_allclose(got, want, atol=1e-5)
    for a, b in zip(own, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
