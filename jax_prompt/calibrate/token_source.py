"""What calibration asks of a frozen backbone and of images."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np


class TokenSource(Protocol):
    """A frozen backbone as the calibration sees it; all calls have one fixed batch size.

    T counts all tokens (class and register tokens too), N patch tokens only. No prompts anywhere.
    """

    @property
    def depth(self) -> int:
        """Blocks of the backbone."""

    def embed(self, images: Any) -> jax.Array:
        """Returns the tokens entering block 0, [B, T, D], after the position embedding."""

    def advance(self, tokens: jax.Array, layer: int) -> jax.Array:
        """Returns the tokens [B, T, D] that leave block `layer`, given those that enter it."""

    def patches(self, tokens: jax.Array) -> jax.Array:
        """Returns the patch tokens [B, N, D] among the tokens [B, T, D]."""

    def collect_embedding(self, images: Any) -> jax.Array:
        """Returns the patch embedding before the position embedding, [B, N, D]."""


@runtime_checkable
class Staged(Protocol):
    """A source whose blocks may not all be alike."""

    def stages(self) -> Mapping[str, TokenSource]:
        """Returns the source of each stage of like blocks, in order; {} where all are alike."""


class Images(Protocol):
    """Images that can be indexed: an array [n, H, W, 3], a memory map, or a reader of files."""

    def __len__(self) -> int:
        """Returns the number of images."""

    def __getitem__(self, index: np.ndarray) -> Any:
        """Returns the images at these indices, [B, H, W, 3]."""
