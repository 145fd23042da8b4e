"""A job is one training: its inputs, its results, and its failures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_prompt.core.failure import Failure
from jax_prompt.core.tree import Tree
from jax_prompt.data.stored import Stored
from jax_prompt.train.optim import Hyper
from jax_prompt.train.options import Engine
from jax_prompt.train.program import Program


class Unconverged(Failure, RuntimeError):
    """Too few of an epoch's inner solves converged, and the run is configured to stop there."""


class NonFiniteLoss(Failure, FloatingPointError):
    """A loss, a logit or a trained weight became NaN or infinite; the last checkpoint is kept."""


class Data(NamedTuple):
    """Examples of one split: what is stored of each, or a stream, and labels [n] int32."""

    data: Stored
    labels: np.ndarray


@dataclass(frozen=True)
class Job:
    """One training: what a search makes several of, and a run one.

    Attributes:
      name: 'train' or 'search/lr_0.01', as it stands in metrics.jsonl.
      directory: where its checkpoints lie.
      program: what a step computes.
      trainable: the initial trainable tree.
      frozen: the frozen tree, on the device.
      hyper: learning rate and weight decays.
      seed: of order, augmentation and dropout.
      train: training examples.
      val: validation examples, or None.
      batch_size: examples a step.
      engine: how the loop runs. Checkpoints and progress come between device calls, and the last
        epoch is always validated. What the program depends on is in `program` already.
      until: the epoch after which training pauses, for a later call to go on; 0: the last. The
        schedule is that of all epochs.
      metrics: the run's metrics.jsonl.
      quiet: print nothing.
      after: images that the run trains on after this job, for the time that is left.
    """

    name: str
    directory: Path
    program: Program
    trainable: Tree
    frozen: Tree
    hyper: Hyper
    seed: int
    train: Data
    val: Data | None
    batch_size: int
    engine: Engine = field(default_factory=Engine)
    until: int = 0
    metrics: Path | None = None
    quiet: bool = False
    after: int = 0

    @property
    def last_epoch(self) -> int:
        """The epoch with which training ends."""
        return self.until or self.program.epochs


@dataclass
class Fit:
    """What a job gives.

    Attributes:
      trainable: the tree to evaluate: last weights, or their average where one is kept.
      best: the same at the best validation epoch ({} without validation).
      val_accuracy: at the last epoch, or None.
      best_val_accuracy: at the best epoch, or None.
      best_epoch: which that was, from 1.
      seconds: training time, over all resumptions, compilation and validation included.
      images_per_second: median over epochs, so that compilation does not count.
      earlier_seconds: what of `seconds` was spent before this process.
      step: optimizer steps done, the number of the checkpoint that holds the trees.
      cores: numbers of cores that its steps ran on; several where it was gone on with elsewhere.
    """

    trainable: Tree
    best: Tree
    val_accuracy: float | None = None
    best_val_accuracy: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0
    earlier_seconds: float = 0.0
    step: int = 0
    cores: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a member ended.

    Attributes:
      fit: what it gave; None where it failed.
      seconds: its share of the members' time, over all resumptions.
      error: why it failed.
    """

    fit: Fit | None
    seconds: float
    error: NonFiniteLoss | Unconverged | None = None

    @property
    def status(self) -> str:
        """'done', or why it failed."""
        return str(self.error) if self.error else 'done'
