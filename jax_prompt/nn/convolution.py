"""Convolutions, plain and depthwise, and pooling, with gradients that are fast inside loops.

XLA's CPU backend takes forward convolutions of stride 1 to its library, inside a loop too (an epoch
is one), but runs those of gradients by a plain form of its own: 4 x 56 x 56 pixels, 64 to 64
channels, 3 x 3, on one core: 142 ms instead of 14 for the gradient of the image, 2.3 s instead of
39 ms for that of the kernel. So here, on CPU, gradients are forward convolutions and products.
Elsewhere they are the backend's.
"""

import functools
from functools import partial

import jax
import jax.numpy as jnp

from jax_prompt.nn.products import product, wide

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# Channels up to which the kernel's gradient is one wide product with all shifts of that side; a
# product for each place of the kernel takes over above it. 4 x 28 x 28 pixels, 128 to 8 channels, 3
# x 3, two busy cores: 2.7 ms against 17; 128 to 128: 15 against 19, but nine copies of an image.
_FEW = 16
# From this many channels to those of an image (LION's block), a convolution is one product and
# shifts of its parts. 8 x 224 x 224 pixels, 64 to 3 channels, forward and transposed, two busy
# cores: 202 ms against 196 of the backend's, so neither wins; results of LION keep their bits.
_MANY, _COLOURS = 64, 4


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves with k // 2 zeros on each side, as torch does with padding=k // 2.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, C, D], k odd.
      stride: step along both axes.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), D].
    """
    if kernel.shape[0] == 1:
        return product(x[:, ::stride, ::stride], kernel[0, 0])
    return _convolve(x, kernel, stride)


def convolve_like(x: jax.Array, kernel: jax.Array, y: jax.Array) -> jax.Array:
    """Convolves with the stride that took x to y, which their shapes tell.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, C, D], k odd.
      y: output of a convolution of x of stride s, 1 or 2: [B, ceil(H / s), ceil(W / s), ...].

    Returns:
      [B, ceil(H / s), ceil(W / s), D].
    """
    return convolve(x, kernel, -(-x.shape[1] // y.shape[1]))


def transpose_kernel(kernel: jax.Array) -> jax.Array:
    """Returns the kernel [k, k, D, C] of the transposed convolution of `kernel` [k, k, C, D]."""
    return jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3)


def max_pool(x: jax.Array) -> jax.Array:
    """Takes the maximum over 3x3 pixels with stride 2, [B, H, W, C] to [B, H / 2, W / 2, C].

    One axis after the other, by maxima of slices: the gradient stays elementwise. It is shared
    where pixels are equal; after a ReLU those are zeros, which pass none.
    """
    for axis in (1, 2):
        size, pads = -(-x.shape[axis] // 2), [(0, 0)] * 4
        pads[axis] = (1, 1)
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        parts = [jax.lax.slice_in_dim(padded, i, i + 2 * size - 1, 2, axis) for i in range(3)]
        x = functools.reduce(jnp.maximum, parts)
    return x


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    if stride > 1 or kernel.shape[2] < _MANY or kernel.shape[3] > _COLOURS:
        return _plain(x, kernel, stride)
    return jax.lax.platform_dependent(x, kernel, cpu=_product_then_shift, default=_plain)


def _product_then_shift(x: jax.Array, kernel: jax.Array) -> jax.Array:
    k, _, inputs, _ = kernel.shape
    flat = kernel.transpose(2, 0, 1, 3).reshape(inputs, -1)  # [C, k * k * D]
    parts = jnp.split(product(x, flat), k * k, axis=-1)  # each [B, H, W, D]
    return functools.reduce(jnp.add, (_shifted(p, k, 1, p)[i] for i, p in enumerate(parts)))


def _plain(x: jax.Array, kernel: jax.Array, stride: int = 1, groups: int = 1) -> jax.Array:
    r = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((r, r), (r, r)),
        dimension_numbers=_LAYOUT,
        feature_group_count=groups,
    )


def _forward(x, kernel, stride):
    return _convolve(x, kernel, stride), (x, kernel)


def _backward(stride, residuals, g):
    x, kernel = residuals

    def on_cpu(x, kernel, g):
        dkernel = _kernel_gradient(x, g, stride, kernel.shape[0])
        return _image_gradient(kernel, g, stride, x.shape), dkernel.astype(kernel.dtype)

    def elsewhere(x, kernel, g):
        return jax.vjp(partial(_plain, stride=stride), x, kernel)[1](g)

    return jax.lax.platform_dependent(x, kernel, g, cpu=on_cpu, default=elsewhere)


_convolve.defvjp(_forward, _backward)


def _image_gradient(
    kernel: jax.Array, g: jax.Array, stride: int, shape: tuple[int, ...]
) -> jax.Array:
    """Returns the gradient of x, its pixels a stride apart by a convolution of stride 1 each."""
    k, s, r = kernel.shape[0], stride, kernel.shape[0] // 2
    height, width = g.shape[1:3]
    flipped = transpose_kernel(kernel)  # [k, k, D, C]; place i holds tap k - 1 - i
    if s == 1:
        return _convolve(g, flipped, 1)

    def phase(a: int, b: int) -> jax.Array:
        """Pixels (s h + a, s w + b): those outputs reach them whose taps are a + r modulo s."""
        (row, above), (column, left) = _taps(a, k, s, r), _taps(b, k, s, r)
        part = flipped[row::s, column::s]
        if not part.size:
            return jnp.zeros((g.shape[0], height, width, kernel.shape[2]), g.dtype)
        pads = ((above, part.shape[0] - 1 - above), (left, part.shape[1] - 1 - left))
        return jax.lax.conv_general_dilated(g, part, (1, 1), pads, dimension_numbers=_LAYOUT)

    parts = [jnp.stack([phase(a, b) for b in range(s)], axis=3) for a in range(s)]
    whole = jnp.stack(parts, axis=2)  # [B, h, s, w, s, C]
    whole = whole.reshape(g.shape[0], s * height, s * width, -1)
    return whole[:, : shape[1], : shape[2]]


def _taps(phase: int, k: int, stride: int, r: int) -> tuple[int, int]:
    """Returns the first place of the flipped kernel that reaches a phase, and zeros before g."""
    taps = range((phase + r) % stride, k, stride)  # x[s h + a] meets y[h + d], d falls with the tap
    if not taps:
        return k, 0
    return k - 1 - taps[-1], (taps[-1] - phase - r) // stride


def _shifted(x: jax.Array, k: int, stride: int, y: jax.Array) -> list[jax.Array]:
    """Returns what of x [B, H, W, C] each place of the kernel meets, k * k of [B, h, w, C].

    h and w are those of y, the output of the convolution.
    """
    r, s, (height, width) = k // 2, stride, y.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (r, r + s - 1), (r, r + s - 1), (0, 0)))
    return [
        padded[:, i : i + s * height : s, j : j + s * width : s] for i in range(k) for j in range(k)
    ]


def _kernel_gradient(x: jax.Array, g: jax.Array, stride: int, k: int) -> jax.Array:
    """Returns the gradient [k, k, C, D] of the kernel by products with shifted images."""
    inputs, outputs = x.shape[3], g.shape[3]
    if stride == 1 and outputs < inputs and outputs <= _FEW:
        columns = jnp.concatenate(_shifted(g, k, 1, x), axis=-1)  # [B, H, W, k * k * D]
        taps = wide(jnp.einsum, 'bhwc,bhwd->cd', x, columns).reshape(inputs, k, k, outputs)
        return jnp.flip(taps.transpose(1, 2, 0, 3), (0, 1))
    shifted = _shifted(x, k, stride, g)
    if inputs <= _FEW:
        columns = jnp.concatenate(shifted, axis=-1)  # [B, h, w, k * k * C]
        return wide(jnp.einsum, 'bhwc,bhwd->cd', columns, g).reshape(k, k, inputs, outputs)
    parts = [wide(jnp.einsum, 'bhwc,bhwd->cd', part, g) for part in shifted]
    return jnp.stack(parts).reshape(k, k, inputs, outputs)


@jax.custom_vjp
def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves each channel with a kernel of its own, with k // 2 zeros on each side.

    On CPU it is a sum of shifted images, one loop for all places of the kernel: 4 x 56 x 56 pixels,
    96 channels, 7 x 7, on two busy cores: 50 to 100 ms instead of the backend's 230, the gradient
    of the kernel 85 to 130 ms instead of 27 s.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, 1, C], k odd.

    Returns:
      [B, H, W, C].
    """
    native = partial(_plain, groups=x.shape[-1])
    return jax.lax.platform_dependent(x, kernel, cpu=_sum_of_shifts, default=native)


def _sum_of_shifts(x: jax.Array, kernel: jax.Array) -> jax.Array:
    taps = kernel.astype(jnp.float32).reshape(-1, x.shape[-1])  # [k * k, C]
    parts = zip(_shifted(x, kernel.shape[0], 1, x), taps, strict=True)
    return functools.reduce(jnp.add, (part * tap for part, tap in parts)).astype(x.dtype)


def _depthwise_forward(x, kernel):
    return depthwise(x, kernel), (x, kernel)


def _depthwise_backward(residuals, g):
    x, kernel = residuals

    def on_cpu(x, kernel, g):
        wide = g.astype(jnp.float32)
        shifted = _shifted(x, kernel.shape[0], 1, g)
        sums = [jnp.sum(part * wide, axis=(0, 1, 2)) for part in shifted]  # each [C]
        return jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)

    def elsewhere(x, kernel, g):
        return jax.vjp(lambda k: _plain(x, k, groups=x.shape[-1]), kernel)[1](g)[0]

    dkernel = jax.lax.platform_dependent(x, kernel, g, cpu=on_cpu, default=elsewhere)
    return depthwise(g, jnp.flip(kernel, (0, 1))), dkernel


depthwise.defvjp(_depthwise_forward, _depthwise_backward)
