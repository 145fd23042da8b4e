"""Trainings that end in NaN or infinity: how it is found, and what is said."""

import numpy as np

from jax_prompt.core.tree import Tree, flatten
from jax_prompt.train.stage import NonFiniteLoss


def find_nonfinite(tree: Tree) -> str:
    """Returns the path of the first leaf that holds NaN or infinity, '' where none does."""
    leaves = flatten(tree).items()
    return next((path for path, x in leaves if not np.isfinite(np.asarray(x)).all()), '')


def diverged(name: str, what: str, lr: float, kept: int | None) -> NonFiniteLoss:
    """Returns the error of a training that diverged.

    Args:
      name: the stage's.
      what: what is not finite, and where.
      lr: its learning rate.
      kept: the step of its last checkpoint, or None.
    """
    left = f'The checkpoint of step {kept} is kept.' if kept else 'No checkpoint yet.'
    return NonFiniteLoss(
        f'{name}: {what}, learning rate {lr:g}; lower lr or set optim.clip_norm. {left}'
    )
