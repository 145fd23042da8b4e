"""The way of images through a frozen backbone, whose tokens become prototypes."""

from collections.abc import Collection, Iterator
from typing import Any

import jax
import numpy as np

MB = 2**20


class Walk:
    """The way of the chosen images through the backbone, in padded batches of one size.

    A level is a number of blocks passed: 0 for the tokens that enter block 0, `depth` for those
    that leave the last one. A slot is a place in `levels`.
    """

    def __init__(self, source, images, chosen, levels, calibration):
        self.source, self.images, self.chosen, self.levels = source, images, chosen, levels
        self.faithful = calibration.faithful
        self.batch_size = calibration.batch_size
        self.budget_mb, self.budget = calibration.budget_mb, calibration.budget_mb * MB
        self.num_batches = -(-len(chosen) // self.batch_size)
        tokens = source.embed(self.read(0))  # one batch for its shape
        patches = source.patches(tokens)
        self.num_patches, self.width = patches.shape[1:]
        self.layer_bytes = tokens.nbytes * self.num_batches
        # A block's input and output, the patch tokens, and these once more as rows of points.
        self.step_bytes = 2 * tokens.nbytes + 2 * patches.nbytes

    @staticmethod
    def in_mb(count: int) -> float:
        """Returns bytes in MiB."""
        return count / MB

    def check(self, what: str, needed: int) -> None:
        if needed > self.budget:
            raise ValueError(
                f'budget_mb={self.budget_mb}, but {what} take {self.in_mb(needed):.1f} MiB; raise '
                f'budget_mb or lower batch_size={self.batch_size}'
            )

    def read(self, batch: int) -> Any:
        """Returns the images of a batch; rows missing in the last one repeat its first image."""
        index = self.chosen[batch * self.batch_size : (batch + 1) * self.batch_size]
        missing = self.batch_size - len(index)
        return self.images[np.concatenate([index, np.full(missing, index[0], index.dtype)])]

    def mask(self, batch: int) -> np.ndarray:
        """Returns which of a batch's tokens are real, [B*N] bool."""
        real = min(self.batch_size, len(self.chosen) - batch * self.batch_size)
        return np.arange(self.batch_size * self.num_patches) < real * self.num_patches

    def at(self, level: int, batch: int, tokens: jax.Array) -> jax.Array:
        """Returns the patch tokens [B, N, D] of a level, given all its tokens [B, T, D]."""
        if level == 0 and self.faithful:
            return self.source.collect_embedding(self.read(batch))
        return self.source.patches(tokens)

    def tokens(self, wanted: Collection[int]) -> Iterator[tuple[int, int, jax.Array]]:
        """Yields (slot, batch, patch tokens [B, N, D]) of the wanted slots, batch after batch."""
        for batch in range(self.num_batches):
            tokens = self.source.embed(self.read(batch))
            for level in range(max(self.levels[slot] for slot in wanted) + 1):
                if level > 0:
                    tokens = self.source.advance(tokens, level - 1)
                slot = self.levels.index(level) if level in self.levels else -1
                if slot in wanted:
                    yield slot, batch, self.at(level, batch, tokens)

    def points(self, wanted: frozenset[int]) -> Iterator[tuple[int, jax.Array, np.ndarray]]:
        """Yields (slot, points [B*N, D], mask [B*N]) as `lloyd_stream` takes them."""
        for slot, batch, tokens in self.tokens(wanted):
            yield slot, tokens.reshape(-1, self.width), self.mask(batch)
