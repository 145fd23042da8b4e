"""A window of an image, resized on the device with antialias.

Each resulting pixel is a weighted sum of stored ones, along rows and then along columns.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp


def _triangle(x: jax.Array) -> jax.Array:
    return jnp.maximum(1 - x, 0.0)


def _keys(x: jax.Array) -> jax.Array:
    """The cubic kernel of Keys with a = -1/2, as Pillow's."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


# name -> (weight of a distance from 0 on, in resulting pixels; the distance where it ends)
KERNELS: dict[str, tuple[Callable[[jax.Array], jax.Array], int]] = {
    'bilinear': (_triangle, 1),
    'bicubic': (_keys, 2),
}


def cut_window(
    image: jax.Array, box: jax.Array, size: int, flip: jax.Array, kernel: str
) -> jax.Array:
    """Resizes the box (top, left, height, width; shares of the side) of an image.

    Where the box is larger than the result, the kernel widens with it (antialias).

    Args:
      image: [S, S, 3] uint8.
      box: [4] float32.
      size: side of the result in pixels.
      flip: bool scalar, whether to mirror the result.
      kernel: a name of `KERNELS`.

    Returns:
      [size, size, 3] float32 in [0, 255].
    """
    index, weight = _taps(box[0], box[2], image.shape[0], size, kernel)  # [taps, size]
    parts = [image[i].astype(jnp.float32) for i in index]  # taps x [size, S, 3]
    rows = sum((x * w[:, None, None] for x, w in zip(parts, weight, strict=True)), jnp.zeros(()))
    index, weight = _taps(box[1], box[3], image.shape[1], size, kernel)  # [taps, size]
    index, weight = (jnp.where(flip, a[:, ::-1], a) for a in (index, weight))
    parts = [rows[:, i] for i in index]  # taps x [size, size, 3]
    return sum((x * w[:, None] for x, w in zip(parts, weight, strict=True)), jnp.zeros(()))


def _taps(
    start: jax.Array, extent: jax.Array, length: int, size: int, kernel: str
) -> tuple[jax.Array, jax.Array]:
    """Returns which stored pixels make each resulting one, and their weights.

    Args:
      start: where the window starts, as a share of the length.
      extent: how long it is, likewise.
      length: stored pixels.
      size: resulting pixels.
      kernel: a name of `KERNELS`.

    Returns:
      Indices [taps, size] int32 and weights [taps, size] float32 that add up to 1.
    """
    weigh, ends = KERNELS[kernel]
    num_taps = math.ceil(2 * ends * max(length / size, 1))
    step = extent * length / size  # stored pixels a resulting one
    scale = jnp.maximum(step, 1.0)
    radius = ends * scale
    place = start * length + (jnp.arange(size) + 0.5) * step - 0.5
    index = jnp.ceil(place - radius).astype(jnp.int32) + jnp.arange(num_taps)[:, None]
    weight = weigh(jnp.abs(place - index) / scale)
    weight = jnp.where((index >= 0) & (index < length), weight, 0.0)
    return jnp.clip(index, 0, length - 1), weight / jnp.sum(weight, axis=0)
