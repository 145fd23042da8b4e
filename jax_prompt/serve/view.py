"""How a task's images are read: by the rule by which its run read them."""

from typing import NamedTuple

import numpy as np

from jax_prompt.data.decode import decode_image
from jax_prompt.data.transforms import prepare_image
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.inputs import store_size, stored_view


class View(NamedTuple):
    """How decoded images are brought to the stored size, which the device cuts and normalises.

    Attributes:
      size: S, the stored side in pixels.
      method: interpolation, see `transforms.resize_image`.
      crop: see `transforms.prepare_image`.
      crop_ratio: likewise.
    """

    size: int
    method: str
    crop: str
    crop_ratio: float

    def read(self, data: bytes, name: str) -> np.ndarray:
        """Decodes an image file to [S, S, 3] uint8.

        Args:
          data: the file's bytes.
          name: of the image, for errors.

        Raises:
          ValueError: the image can't be decoded.
        """
        return self.resize(decode_image(data, name))

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Brings a decoded image [H, W, 3] uint8 to [S, S, 3] uint8."""
        return prepare_image(image, self.size, self.method, self.crop, self.crop_ratio)


def view_of(config: RunConfig, image_size: int) -> View:
    """Returns how a run reads the images that it predicts.

    Args:
      config: the run.
      image_size: side that its model takes, in pixels.
    """
    options = stored_view(config, image_size)
    return View(store_size(config, image_size), **options)
