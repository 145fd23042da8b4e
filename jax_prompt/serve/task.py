"""A task that is served, and an answer of it."""

from typing import NamedTuple

import numpy as np

from jax_prompt.data.transforms import StoredView
from jax_prompt.evals.classify import require_finite


class Task(NamedTuple):
    """A task that is served.

    Attributes:
      name: its name.
      classes: names of its classes, in the order of its logits.
      method: how it was tuned.
      sha256: checksum of its pack.
      view: how its images are brought to the stored size.
    """

    name: str
    classes: tuple[str, ...]
    method: str
    sha256: str
    view: StoredView


class Answer(NamedTuple):
    """Logits [K] float32 of an image for a task, as the task was when they were computed."""

    task: Task
    logits: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """Probability of each class, [K] float32.

        Raises:
          NonFiniteLogits: a logit is not finite.
        """
        require_finite(self.logits[None], [f'an image for task {self.task.name}'])
        shifted = np.exp(self.logits - self.logits.max())
        return shifted / shifted.sum()
