"""A set of weights that the table of backbones lists."""

import re
from dataclasses import dataclass

from jax_prompt.backbones.architectures import Config
from jax_prompt.core.colour import Colour

# torch.hub names a file NAME-DIGITS.pth, after the first digits of its SHA-256.
_TORCH_HUB = re.compile(r'-([0-9a-f]{8,64})\.pth$')
# Tags whose publishers forbid commercial use: LICENSE of facebookresearch/mae and of /moco-v3.
_NON_COMMERCIAL = {'mae': 'CC BY-NC 4.0', 'moco_v3': 'CC BY-NC 4.0'}


@dataclass(frozen=True)
class Entry:
    """One set of weights.

    Attributes:
      name: 'arch.tag'.
      config: the network that the weights are for.
      format: how the published file names its weights, see `weights.families`.
      mean: per-channel mean that images in [0, 1] are normalised by.
      std: per-channel standard deviation, likewise.
      url: where the file is published; '' if it ships with the package.
      sha256: checksum of that file where the publisher states it.
      filename: its name there; files of this name are recognised.
      note: what else one should know.
    """

    name: str
    config: Config
    format: str
    mean: Colour
    std: Colour
    url: str
    sha256: str | None
    filename: str
    note: str = ''

    @property
    def arch(self) -> str:
        """The architecture's name."""
        return self.name.split('.', 1)[0]

    @property
    def licence(self) -> str:
        """The licence where it forbids commercial use; '' where none is known to."""
        return _NON_COMMERCIAL.get(self.name.partition('.')[2], '')

    @property
    def sha256_begins(self) -> str:
        """The checksum that the publisher states, or its first digits; '' where none is stated."""
        digits = _TORCH_HUB.search(self.filename)
        return self.sha256 or (digits[1] if digits else '')

    @property
    def packaged(self) -> bool:
        """Whether the weights ship with the package."""
        return not self.url
