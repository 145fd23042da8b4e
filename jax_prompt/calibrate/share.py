"""Mean, max and random prototypes of many images, from their tokens batch after batch.

The result is that of `pooling.py` on one batch of all the images. Only P prototypes, or the pooled
tokens of each image (`faithful=True`), are held.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.calibrate.pooling import check_count, pool_each, sample


class SharePool:
    """The prototypes of one layer, while batches of tokens come in.

    Args:
      construction: 'random', 'mean' or 'max'.
      shape: (B, N, D): images in all, patches of an image, width.
      num_prompts: P.
      faithful: whether each image is pooled by itself, as in the released code.
      key: random key.

    Raises:
      ValueError: P prompts can not be made of these tokens.
    """

    def __init__(
        self,
        construction: str,
        shape: tuple[int, int, int],
        num_prompts: int,
        faithful: bool,
        key: jax.Array,
    ):
        images, self.num_patches, width = shape
        check_count(num_prompts, images, self.num_patches)
        total = images * self.num_patches
        self.construction, self.num_prompts, self.key = construction, num_prompts, key
        self.pooled: list[np.ndarray] | None = None
        if faithful and construction != 'random':
            self.pooled = []
        self.window = total // num_prompts
        self.picks = np.asarray(jax.random.choice(key, total, (num_prompts,), replace=False))
        start = -np.inf if construction == 'max' else 0.0
        self.values = np.full((num_prompts, width), start, np.float64)

    def add(self, first: int, tokens: np.ndarray) -> None:
        """Takes the tokens [b, N, D] of images number `first` and following."""
        if self.pooled is not None:
            each = pool_each(jnp.asarray(tokens), self.num_prompts, self.construction)
            self.pooled.append(np.asarray(each))  # [b, P, D]
            return
        flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
        places = first * self.num_patches + np.arange(len(flat))
        if self.construction == 'random':
            held = (self.picks >= places[0]) & (self.picks <= places[-1])
            self.values[held] = flat[self.picks[held] - places[0]]
            return
        slots = places // self.window  # past P: left over
        real = slots < self.num_prompts
        merge = np.maximum if self.construction == 'max' else np.add
        merge.at(self.values, slots[real], flat[real])

    def result(self) -> np.ndarray:
        """Returns the prototypes, [P, D] float32."""
        if self.pooled is not None:
            tokens = jnp.asarray(np.concatenate(self.pooled))  # [B, P, D]
            return np.asarray(sample(self.key, tokens, self.num_prompts))
        scale = self.window if self.construction == 'mean' else 1
        return (self.values / scale).astype(np.float32)


def from_share(walk, num_prompts, calibration, key) -> tuple[np.ndarray, dict[str, Any]]:
    """Builds prototypes [levels, P, D] from all images of the walk, and a report."""
    held = walk.step_bytes
    walk.check('one batch of tokens', held)
    shape = (len(walk.chosen), walk.num_patches, walk.width)
    slots = range(len(walk.levels))
    options = (calibration.construction, shape, num_prompts, calibration.faithful)
    pools = [SharePool(*options, jax.random.fold_in(key, slot)) for slot in slots]
    for slot, batch, tokens in walk.tokens(slots):
        first = batch * walk.batch_size
        pools[slot].add(first, np.asarray(tokens)[: shape[0] - first])  # without the padding
    report = {'road': 'share', 'held_mb': held / 2**20}
    values = np.stack([pool.result() for pool in pools])
    return values, {**report, 'inertia': [], 'iterations': [], 'converged': []}
