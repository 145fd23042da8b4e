"""Images that a user hands over as an array: what they have to be."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_images(images: Any, *, any_size: bool = False) -> None:
    """Checks images before a model sees them: a wrong scale or axis gives answers all the same.

    Args:
      images: [B, S, S, 3] uint8, or floats in [0, 1]. In a function that JAX traces, values are not
        known and only shape and dtype are checked.
      any_size: whether images may have any height and width, as they are resized later.

    Raises:
      ValueError: another shape, dtype or range; says what to do.
    """
    shape, dtype = tuple(images.shape), images.dtype
    wrong = _wrong_shape(shape, any_size)
    if not wrong and dtype != jnp.uint8 and not jnp.issubdtype(dtype, jnp.floating):
        wrong = 'for values of 0 to 255 convert with images.astype(np.uint8)'
    if not wrong and dtype != jnp.uint8 and not isinstance(images, jax.core.Tracer):
        wrong = _wrong_range(np.asarray(images, np.float32))
    if wrong:
        sides = 'H, W' if any_size else 'S, S'
        raise ValueError(
            f'images are {dtype} of shape {list(shape)}; allowed: [B, {sides}, 3], uint8 or floats '
            f'in [0, 1], not normalised; {wrong}'
        )


def _wrong_shape(shape: tuple[int, ...], any_size: bool) -> str:
    if len(shape) == 3 and shape[2] > 4:  # no colours last
        grey = 'grey images get three colours by np.stack([images] * 3, axis=-1)'
        one = 'one image gets its colours last by images.transpose(1, 2, 0)[None]; '
        return one * (shape[0] == 3) + grey
    if len(shape) == 3:
        return 'one image is a batch of one: images[None]'
    if len(shape) != 4:
        return 'the axes are image, row, column and colour'
    if shape[3] == 1:
        return 'repeat grey as three colours: np.repeat(images, 3, axis=-1)'
    if shape[3] != 3 and shape[1] == 3:
        return 'put colours last: images.transpose(0, 2, 3, 1)'
    if shape[3] != 3:
        return 'give three colours, without transparency'
    if any_size and not min(shape[1:3]):
        return 'they have no pixels'
    if not any_size and shape[1] != shape[2]:
        return 'make them square: data.transforms.prepare_image does'
    return ''


def _wrong_range(values: np.ndarray) -> str:
    if not values.size or (values.min() >= -1e-6 and values.max() <= 1 + 1e-6):
        return ''
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low + high):
        return 'some values are NaN or infinite'
    way = 'the program normalises by itself' if low < 0 else 'divide by 255'
    return f'values are {low:.3g} to {high:.3g}: {way}'
