"""Image files of strangers: looked at before they are decoded."""

import io
from collections.abc import Callable

import numpy as np

from jax_prompt.data.decode import decode_image
from jax_prompt.serve.refused import Unanswered

_FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'PPM')


def decode_checked(data: bytes, name: str, max_pixels: int) -> np.ndarray:
    """Decodes an image file by the rule of training, if its header says that it is not too large.

    Args:
      data: the file's bytes.
      name: of the image, for errors.
      max_pixels: most pixels of an image.

    Returns:
      [H, W, 3] uint8.

    Raises:
      Unanswered: the image is of another format, too large or damaged.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            pixels = image.width * image.height
    except Exception as error:  # a decoder may raise anything on corrupt bytes
        large = isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning)
        why = f'more than {max_pixels:,} pixels' if large else f'no image of {", ".join(_FORMATS)}'
        raise Unanswered(f'{name}: {why}') from error
    if pixels > max_pixels:
        raise Unanswered(f'{name}: {pixels:,} pixels; at most {max_pixels:,}')
    try:
        return decode_image(data, name)
    except ValueError as error:
        raise Unanswered(str(error)) from error


def reader(data: bytes, name: str, max_pixels: int) -> Callable:
    """Returns a function that reads an image for a view."""
    return lambda view: view.resize(decode_checked(data, name, max_pixels))
