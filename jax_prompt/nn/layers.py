"""Small layers that the backbones share: exact GELU, drop path, patches."""

import math

import jax
import jax.numpy as jnp


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Computes the exact GELU x * Phi(x) by erf, as torch checkpoints expect (not the tanh form).

    The backward pass keeps x only. Source: Hendrycks & Gimpel, "Gaussian Error Linear Units",
    arXiv:1606.08415.
    """
    return x * _normal_cdf(x).astype(x.dtype)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1.0 + jax.lax.erf(x.astype(jnp.float32) * math.sqrt(0.5)))


def _gelu_forward(x):
    return gelu(x), x


def _gelu_backward(x, g):
    y = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * y * y) * (1.0 / math.sqrt(2.0 * math.pi))
    # Without the barrier the compiler of TPUs makes one operation of the products on both sides,
    # which takes longer by its own estimate (docs/scaling.md).
    return (jax.lax.optimization_barrier((g * (_normal_cdf(y) + y * density)).astype(g.dtype)),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def drop_path(key: jax.Array | None, x: jax.Array, rate: jax.Array | float) -> jax.Array:
    """Drops the residual branch x [B, ...] of whole images with probability `rate`, unbiased.

    Source: Huang et al., "Deep Networks with Stochastic Depth", arXiv:1603.09382. Without a key
    (evaluation) x is returned unchanged.
    """
    if key is None:
        return x
    keep = 1.0 - jnp.asarray(rate, jnp.float32)
    kept = jax.random.bernoulli(key, keep, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(kept, x / keep.astype(x.dtype), jnp.zeros_like(x))


def dropout(key: jax.Array | None, x: jax.Array, rate: float) -> jax.Array:
    """Zeroes elements of x with probability `rate`, rescales the rest; identity without a key."""
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))


def patches(images: jax.Array, size: int) -> jax.Array:
    """Cuts images [B, H, W, C] into patches [B, N, size * size * C], row by row.

    A strided convolution of the same size is this cut followed by a product, which runs faster on
    CPU and leaves its gradient a plain product.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // size, width // size
    x = images.reshape(batch, rows, size, columns, size, channels)
    x = jnp.swapaxes(x, 2, 3)  # [B, rows, columns, size, size, C]
    return x.reshape(batch, rows * columns, size * size * channels)


def pooled_pixels(images: jax.Array, grid: int) -> jax.Array:
    """Averages images [B, H, W, 3] down to grid x grid pixels, [B, grid * grid * 3]."""
    shape = (images.shape[0], grid, grid, images.shape[3])
    return jax.image.resize(images, shape, 'linear', antialias=True).reshape(shape[0], -1)


def resize_positions(positions: jax.Array, grid: int) -> jax.Array:
    """Resizes position embeddings [1, n * n, D] to a grid of [1, grid * grid, D].

    Bicubic with antialias, as timm resamples (`resample_abs_pos_embed`).
    """
    count, width = positions.shape[1:]
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(
            f'{count} position embeddings are no square grid; a square grid can be resized'
        )
    if side == grid:
        return positions
    square = jnp.asarray(positions, jnp.float32).reshape(1, side, side, width)
    square = jax.image.resize(square, (1, grid, grid, width), 'bicubic', antialias=True)
    return square.reshape(1, grid * grid, width)
