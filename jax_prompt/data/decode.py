"""Image files to RGB pixels: one decoder for every source, so that all give the same bytes."""

import io

import numpy as np

from jax_prompt.data.png import missing_bytes
from jax_prompt.data.room import ROOM

_MOST_PIXELS = 178_956_970  # Pillow's own limit
# Bytes a pixel: Pillow holds 4, the result has 3, and resizing copies it to 4 again.
_BYTES = 11
_STRIP = 1 << 19  # pixels converted at a time: what a processor's cache holds is fastest
_EXIF_ORIENTATION = 0x0112


def decode_image(data: bytes, name: str, *, exif: bool = True) -> np.ndarray:
    """Decodes an image file.

    Palettes, grey, CMYK and the like become RGB; what is transparent shows white; 16-bit grey is
    scaled from 0..65535; of an animation the first frame counts. Threads that decode share a
    budget of memory (`room.py`).

    Args:
      data: the file's bytes.
      name: the example's name, for errors.
      exif: turn the image as its EXIF orientation says.

    Returns:
      [H, W, 3] uint8 RGB.

    Raises:
      ValueError: the image is corrupt, truncated, too large, or of a kind whose values have no
        stated range.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise Image.DecompressionBombError
            with ROOM.reserve(image.width * image.height * _BYTES):
                return _decode(image, data, exif)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(
            f'{name}: more than {_MOST_PIXELS:,} pixels, which are the most that are read; make it '
            'smaller first (it is resized to the model anyway)'
        ) from error
    except Exception as error:  # a decoder may raise anything on corrupt bytes
        # Pillow's message for unknown bytes shows the address of the buffer: say less.
        unknown = type(error).__name__ == 'UnidentifiedImageError'
        why = 'no known image format' if unknown else str(error) or type(error).__name__
        raise ValueError(f'{name}: not a readable image: {why}') from error


def _decode(image, data: bytes, exif: bool) -> np.ndarray:
    """Returns an opened Pillow image as [H, W, 3] uint8."""
    from PIL import Image

    is_png = image.format == 'PNG'
    if is_png:
        # The decoder itself does not look at the checksums of the pixel data.
        with Image.open(io.BytesIO(data)) as again:
            again.verify()
    interlaced = bool(image.info.get('interlace'))
    image.load()
    if is_png and (interlaced or _ends_black(image)):
        missing = missing_bytes(data)
        if missing:
            raise ValueError(f'it ends early: {missing} bytes of its pixels are missing')
    pixels = _rgb(image)
    return _turned(pixels, image.getexif().get(_EXIF_ORIENTATION)) if exif else pixels


def _ends_black(image) -> bool:
    """Whether the last row is zero throughout, as rows are that were never decoded."""
    last = image.crop((0, image.height - 1, image.width, image.height))
    return not any(last.tobytes())


def _turned(pixels: np.ndarray, orientation: object) -> np.ndarray:
    """Turns and mirrors an image as EXIF says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _rgb(image) -> np.ndarray:
    """Returns a Pillow image as [H, W, 3] uint8, some rows at a time to save memory."""
    if image.mode == 'F':
        raise ValueError('grey values are floats of unknown range; save it as 8-bit')
    rows = max(_STRIP // image.width, 1)
    if image.height <= rows:
        pixels = _strip(image)
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels.copy()
    out = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        out[top:bottom] = _strip(image.crop((0, top, image.width, bottom)))
    return out


def _strip(image) -> np.ndarray:
    """Returns a Pillow image as [H, W, 3] uint8 that is not to be written to.

    A 16-bit grey one becomes [H, W, 1].
    """
    from PIL import Image

    if image.mode in ('I', 'I;16', 'I;16B', 'I;16L', 'I;16N'):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f'grey values {values.min()}..{values.max()}; save it as 8-bit')
        return ((values + 128) // 257).astype(np.uint8)[:, :, None]
    if image.mode in ('RGBA', 'LA', 'PA', 'La', 'RGBa') or 'transparency' in image.info:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    image = image if image.mode == 'RGB' else image.convert('RGB')
    # np.array(image) takes four times as long.
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)
