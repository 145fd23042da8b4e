"""Convolutions of odd size with zero padding, and a bound of what they can amplify."""

import functools
import math
from functools import partial

import jax
import jax.numpy as jnp

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


@jax.custom_vjp
def conv_same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with stride 1 and zero padding, so that height and width stay.

    The gradient of x is a convolution with the flipped, transposed kernel, written out: inside a
    loop XLA's CPU backend runs its own form of it several times slower. There, convolutions to few
    channels and the gradient of the kernel run as products with shifted images (8 x 224 x 224
    pixels from 64 to 3 channels, 2 cores: 68 ms instead of 98, its kernel's gradient 110 instead
    of 225); elsewhere they are the backend's.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, C, D], k odd.

    Returns:
      [B, H, W, D].
    """
    if kernel.shape[3] >= kernel.shape[2]:
        return _convolve(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=_product_then_shift, default=_convolve)


def transpose_kernel(kernel: jax.Array) -> jax.Array:
    """Returns the kernel [k, k, D, C] of the transposed convolution of `kernel` [k, k, C, D]."""
    return jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3)


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=_LAYOUT)


def _shifted(x: jax.Array, k: int) -> list[jax.Array]:
    """Returns x moved to each of the k x k places of a kernel, each like x."""
    r, (height, width) = k // 2, x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (r, r), (r, r), (0, 0)))
    return [padded[:, i : i + height, j : j + width] for i in range(k) for j in range(k)]


def _product_then_shift(x: jax.Array, kernel: jax.Array) -> jax.Array:
    k, _, inputs, _ = kernel.shape
    flat = kernel.transpose(2, 0, 1, 3).reshape(inputs, -1)  # [C, k * k * D]
    parts = jnp.split(x @ flat, k * k, axis=-1)  # each [B, H, W, D]
    return functools.reduce(jnp.add, (_shifted(p, k)[i] for i, p in enumerate(parts)))


def _forward(x, kernel):
    return conv_same(x, kernel), (x, kernel)


def _kernel_gradient(x: jax.Array, g: jax.Array, k: int) -> jax.Array:
    """Returns the gradient [k, k, C, D] of the kernel, by one product with k x k shifted images."""
    inputs, outputs = x.shape[3], g.shape[3]
    if inputs <= outputs:
        columns = jnp.concatenate(_shifted(x, k), axis=-1)  # [B, H, W, k * k * C]
        return jnp.einsum('bhwc,bhwd->cd', columns, g).reshape(k, k, inputs, outputs)
    columns = jnp.concatenate(_shifted(g, k), axis=-1)  # [B, H, W, k * k * D]
    product = jnp.einsum('bhwc,bhwd->cd', x, columns).reshape(inputs, k, k, outputs)
    return jnp.flip(product.transpose(1, 2, 0, 3), (0, 1))


def _convolved_gradient(x: jax.Array, g: jax.Array, k: int) -> jax.Array:
    kernel = jax.ShapeDtypeStruct((k, k, x.shape[3], g.shape[3]), x.dtype)
    return jax.linear_transpose(partial(_convolve, x), kernel)(g)[0]


def _backward(residuals, g):
    x, kernel = residuals
    k = kernel.shape[0]
    dkernel = jax.lax.platform_dependent(
        x, g, cpu=partial(_kernel_gradient, k=k), default=partial(_convolved_gradient, k=k)
    )
    return conv_same(g, transpose_kernel(kernel)), dkernel.astype(kernel.dtype)


conv_same.defvjp(_forward, _backward)


def spectral_norm(matrix: jax.Array) -> jax.Array:
    """Returns the largest singular value of a matrix [m, n], float32 scalar.

    Its gradient is that of u^T M v at fixed singular vectors, which is exact where the value is
    simple, and finite where it is not.
    """
    matrix = matrix.astype(jnp.float32)
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    _, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(small @ small.T))  # ascending
    top = jax.lax.stop_gradient(vectors[:, -1])
    return jnp.sqrt(jnp.sum(jnp.square(top @ small)) + 1e-20)


def operator_bound(kernel: jax.Array) -> jax.Array:
    """Returns a proven upper bound of the norm of x -> conv(x, kernel) or x -> x @ kernel.

    A matrix [C, D] has its spectral norm. A convolution [k, k, C, D] has sqrt(k * k) times the
    least spectral norm of four matrices that its kernel can be read as: Singla and Feizi,
    "Fantastic Four", ICLR 2021, arXiv:1911.10258, theorem 1. The norm of the reshaped kernel alone
    is no bound.
    """
    if kernel.ndim == 2:
        return spectral_norm(kernel)
    height, width, inputs, outputs = kernel.shape
    readings = (
        kernel.transpose(3, 0, 1, 2).reshape(outputs, -1),  # [D, k * k * C]
        kernel.transpose(2, 0, 1, 3).reshape(inputs, -1),  # [C, k * k * D]
        kernel.transpose(0, 3, 1, 2).reshape(height * outputs, -1),  # [k * D, k * C]
        kernel.transpose(1, 3, 0, 2).reshape(width * outputs, -1),  # [k * D, k * C]
    )
    least = jnp.min(jnp.stack([spectral_norm(one) for one in readings]))
    return math.sqrt(height * width) * least
