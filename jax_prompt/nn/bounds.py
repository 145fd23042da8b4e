"""Proven upper bounds of what a product or a convolution can amplify."""

import math

import jax
import jax.numpy as jnp


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
