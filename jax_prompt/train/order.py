"""The order of an epoch: its examples in batches, and its batches in device calls."""

import math

import jax
import numpy as np


def num_steps(count: int, batch_size: int, drop_last: bool) -> int:
    """Returns the steps of an epoch of `count` images.

    Args:
      count: images of an epoch.
      batch_size: images a step.
      drop_last: whether a short last batch is left out.

    Raises:
      ValueError: nothing would be left.
    """
    if not drop_last:
        return math.ceil(count / batch_size)
    if count < batch_size:
        raise ValueError(
            f'drop_last leaves out a short batch, and {count} training images are fewer than '
            f'batch_size {batch_size}; set drop_last=False or a smaller batch_size'
        )
    return count // batch_size


def epoch_order(
    key: jax.Array, epoch: int, count: int, batch_size: int, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the shuffled index rows [steps, B] int32 and weights [steps, B] float32 of an epoch.

    Each example comes once; the last row is filled up with the epoch's first, once more, at weight
    0. They count for nothing, but are images like any: what is taken over the whole batch (batch
    norms in `full`) sees a fair sample of the set. With fewer steps than that takes (`num_steps`),
    the last of the shuffled examples are left out of this epoch.
    """
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), count), np.int32)
    order = order[: steps * batch_size]
    fill = steps * batch_size - len(order)
    rows = np.concatenate([order, np.resize(order, fill)]).reshape(steps, batch_size)
    weights = np.concatenate([np.ones(len(order), np.float32), np.zeros(fill, np.float32)])
    return rows, weights.reshape(steps, batch_size)


def device_calls(steps: int, most: int, done: int = 0) -> list[tuple[int, int]]:
    """Splits what is left of an epoch of `steps` into device calls (first step, stop)."""
    length = math.ceil(steps / math.ceil(steps / most))
    return [(i, min(i + length, steps)) for i in range(done, steps, length)]


def images_done(step: int, steps: int, batch_size: int, count: int) -> int:
    """Returns the images that `step` steps have seen; the last batch of an epoch may be smaller.

    Args:
      step: steps done, over all epochs.
      steps: of an epoch.
      batch_size: images a step.
      count: images of an epoch.

    >>> [images_done(step, 3, 4, 10) for step in (0, 2, 3, 4, 6)]
    [0, 8, 10, 14, 20]
    """
    epoch, inside = divmod(step, steps)
    return epoch * count + min(inside * batch_size, count)
