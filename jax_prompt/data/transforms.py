"""Images from their files' sizes to the model's: on the host once, on the device every step.

The host resizes each decoded image to one stored size (uint8). The device cuts, flips and
normalises stored images inside the training step, each image with a key of its own.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.core.ranges import at_least, check_values, part
from jax_prompt.data.window import KERNELS, cut_window

METHODS = ('bicubic', 'bilinear', 'bilinear_tf')
HOST_CROPS = ('squash', 'centre')
CROPS = ('none', 'random', 'resized')
_RATIO = (3 / 4, 4 / 3)  # width : height of a random resized crop
_TRIES = 10  # draws of a random resized crop before the whole image is taken


# On the host.


class StoredView(NamedTuple):
    """How decoded images are brought to the stored size, which the device cuts and normalises.

    Attributes:
      size: S, the stored side in pixels.
      method: interpolation, see `resize_image`.
      crop: see `prepare_image`.
      crop_ratio: likewise.
    """

    size: int
    method: str = 'bicubic'
    crop: str = 'squash'
    crop_ratio: float = 0.875

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Brings a decoded image [H, W, 3] uint8 to [S, S, 3] uint8."""
        return prepare_image(image, *self)


def resize_image(image: np.ndarray, size: int, method: str = 'bicubic') -> np.ndarray:
    """Resizes an image to a square, ignoring its ratio.

    Args:
      image: [H, W, 3] uint8.
      size: S, side in pixels.
      method: 'bicubic' or 'bilinear': Pillow's, antialiased; 'bilinear_tf': half-pixel centres
        without antialias, as tf.image.resize does, rounded to uint8.

    Returns:
      [S, S, 3] uint8.
    """
    return _resample(image, (size, size), (0, 0), size, method)


def prepare_image(
    image: np.ndarray, size: int, method: str, crop: str, crop_ratio: float = 0.875
) -> np.ndarray:
    """Brings a decoded image to the stored size.

    Args:
      image: [H, W, 3] uint8.
      size: S, side in pixels.
      method: see `resize_image`.
      crop: 'squash' resizes to the square, ignoring the ratio; 'centre' resizes the shorter side
        to floor(S / crop_ratio) and cuts the central square.
      crop_ratio: for 'centre'.

    Returns:
      [S, S, 3] uint8.
    """
    if crop == 'squash':
        return resize_image(image, size, method)
    if crop != 'centre':
        raise ValueError(f'crop is {crop!r}; allowed: {HOST_CROPS}')
    if not 0 < crop_ratio <= 1:
        raise ValueError(f'crop_ratio is {crop_ratio}; allowed: 0 < crop_ratio <= 1')
    shorter = int(size / crop_ratio + 1e-6)
    least = min(image.shape[:2])
    full = tuple(max(shorter, int(shorter * side / least)) for side in image.shape[:2])
    corner = tuple(round((side - size) / 2) for side in full)
    return _resample(image, full, corner, size, method)


def _resample(
    image: np.ndarray, full: tuple[int, ...], corner: tuple[int, ...], size: int, method: str
) -> np.ndarray:
    """Returns the [size, size] window at `corner` of the image resized to `full`.

    Only the window is computed, so that a long thin image takes no more memory than another.
    """
    if method == 'bilinear_tf':
        return _bilinear_tf(image, full, corner, size)
    if method not in METHODS:
        raise ValueError(f'resize method is {method!r}; allowed: {METHODS}')
    from PIL import Image

    resample = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}[method]
    out = Image.fromarray(image)
    # Across, then down, each pass by itself: exactly the window of the whole resized image, which
    # one pass over a box is not, and the same in every version of Pillow.
    for axis in (1, 0):
        length = image.shape[axis]
        low, high = (e * length / full[axis] for e in (corner[axis], corner[axis] + size))
        high = min(high, length)  # a rounding error beyond the edge is refused
        if axis == 1:
            out = out.resize((size, image.shape[0]), resample, (low, 0, high, image.shape[0]))
        else:
            out = out.resize((size, size), resample, (0, low, size, high))
    return np.asarray(out)


def _bilinear_tf(
    image: np.ndarray, full: tuple[int, ...], corner: tuple[int, ...], size: int
) -> np.ndarray:
    low, high, weight = [], [], []
    for axis in range(2):
        length = image.shape[axis]
        place = (np.arange(size) + corner[axis] + 0.5) * (length / full[axis]) - 0.5
        floor = np.floor(place)
        low.append(np.clip(floor, 0, length - 1).astype(np.int64))
        high.append(np.clip(np.ceil(place), 0, length - 1).astype(np.int64))
        weight.append((place - floor).astype(np.float32))
    top, bottom = (image.take(index, axis=0).astype(np.float32) for index in (low[0], high[0]))
    rows = top + (bottom - top) * weight[0][:, None, None]  # [size, W, 3]
    left, right = (rows.take(index, axis=1) for index in (low[1], high[1]))
    return np.rint(left + (right - left) * weight[1][None, :, None]).astype(np.uint8)


# On the device.


@dataclass(frozen=True)
class Augment:
    """What happens to a stored training image.

    Attributes:
      crop: 'none' shows the image as evaluation does; 'random' takes a random window of the
        model's size; 'resized' takes a window of random area and ratio (3/4 to 4/3) and resizes it
        to the model's size.
      flip: True mirrors left and right with probability 1/2.
      scale_min: for crop='resized', least area of the window as a share of the image; the largest
        is 1.
      pad: number of pixels that reflection adds on each side before a random crop.
      kernel: for crop='resized', how the window is resized: 'bilinear' or 'bicubic' (antialiased).
    """

    crop: str = 'none'
    flip: bool = False
    scale_min: float = part(0.35)
    pad: int = at_least(0, 0, 16_384)
    kernel: str = 'bilinear'

    def __post_init__(self):
        if self.crop not in CROPS:
            raise ValueError(f'augment.crop is {self.crop!r}; allowed: {CROPS}')
        if self.kernel not in KERNELS:
            raise ValueError(f'augment.kernel is {self.kernel!r}; allowed: {tuple(KERNELS)}')
        check_values(self, 'augment.')
        if self.pad and self.crop != 'random':
            raise ValueError(f"augment.pad is {self.pad}; it goes with crop='random' only")

    @property
    def is_random(self) -> bool:
        """Whether two epochs see different images."""
        return self.crop != 'none' or self.flip


def augment(
    key: jax.Array, images: jax.Array, size: int, config: Augment, first: int | jax.Array = 0
) -> jax.Array:
    """Augments stored images.

    What happens to an image depends on the key and on its place in the batch, not on the batch's
    size or on other images.

    Args:
      key: a random key.
      images: [B, S, S, 3] uint8.
      size: side of the result, in pixels.
      config: what to do.
      first: place of the first image in the batch, where these are a part of it.

    Returns:
      [B, size, size, 3] float32 in [0, 1].
    """
    if not config.is_random:
        return centre(images, size)
    if config.crop == 'none':
        images = centre(images, size)
    elif config.crop == 'random':
        if config.pad:
            border = (config.pad, config.pad)
            images = jnp.pad(images, ((0, 0), border, border, (0, 0)), mode='reflect')
        if images.shape[1] < size:
            raise ValueError(
                f'images of {images.shape[1]} px (with pad) have no room for a random crop of '
                f"{size} px; store them larger, set augment.pad, or take crop='resized'"
            )
    keys = jax.vmap(partial(jax.random.fold_in, key))(first + jnp.arange(len(images)))
    return jax.vmap(partial(_augment_one, size=size, config=config))(keys, images)


def _augment_one(key: jax.Array, image: jax.Array, size: int, config: Augment) -> jax.Array:
    """Augments one image [S, S, 3] to [size, size, 3] float32 in [0, 1]."""
    crop_key, flip_key = jax.random.split(key)
    flip = config.flip & jax.random.bernoulli(flip_key)
    if config.crop == 'resized':
        box = _random_box(crop_key, config.scale_min)
        # Bicubic weights overshoot, and bilinear ones add up to 1 + 1e-7.
        return jnp.clip(cut_window(image, box, size, flip, config.kernel) / 255, 0.0, 1.0)
    if config.crop == 'random':
        corner = jax.random.randint(crop_key, (2,), 0, image.shape[0] - size + 1)
        image = jax.lax.dynamic_slice(image, (*corner, 0), (size, size, 3))
    return _to_unit(jnp.where(flip, image[:, ::-1], image))


def _random_box(key: jax.Array, scale_min: float) -> jax.Array:
    """Draws (top, left, height, width) in shares of the image's side, [4] float32.

    The first of a few draws of area and ratio that fits in the image, or the whole image.
    """
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, (_TRIES,), minval=scale_min, maxval=1.0)
    low, high = (math.log(ratio) for ratio in _RATIO)
    ratio = jnp.exp(jax.random.uniform(ratio_key, (_TRIES,), minval=low, maxval=high))
    sides = jnp.sqrt(jnp.stack([area / ratio, area * ratio], axis=-1))  # [tries, 2]
    fits = jnp.all(sides <= 1, axis=-1)
    side = jnp.where(jnp.any(fits), sides[jnp.argmax(fits)], 1.0)
    corner = jax.random.uniform(place_key, (2,)) * (1 - side)
    return jnp.concatenate([corner, side])


def centre(images: jax.Array, size: int) -> jax.Array:
    """Returns the evaluation's view of stored images.

    Args:
      images: [B, S, S, 3] uint8.
      size: side of the result: larger stored images are cut to their centre, smaller ones resized
        (bicubic).

    Returns:
      [B, size, size, 3] float32 in [0, 1].
    """
    stored = images.shape[1]
    if stored >= size:
        corner = round((stored - size) / 2)
        window = slice(corner, corner + size)
        return _to_unit(images[:, window, window])
    shape = (images.shape[0], size, size, images.shape[3])
    return jnp.clip(jax.image.resize(_to_unit(images), shape, 'cubic'), 0.0, 1.0)


def to_model(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Normalises images [..., 3], uint8 or float32 in [0, 1], by per-channel mean and std."""
    centred = _to_unit(images) - jnp.asarray(mean, jnp.float32)
    return centred / jnp.asarray(std, jnp.float32)


def _to_unit(images: jax.Array) -> jax.Array:
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    return images.astype(jnp.float32)
