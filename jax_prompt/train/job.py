"""A job is one training: its inputs, its results, and its failures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jax_prompt.core.failure import Failure
from jax_prompt.core.tree import Tree, flatten
from jax_prompt.train.optim import Hyper
from jax_prompt.train.step import Program


class Unconverged(Failure, RuntimeError):
    """Too few of an epoch's inner solves converged, and the run is configured to stop there."""


class NonFiniteLoss(Failure, FloatingPointError):
    """A loss, a logit or a trained weight became NaN or infinite; the last checkpoint is kept."""


class Streamed(Protocol):
    """Examples that do not fit the device and come batch by batch (`data.loader.Stream`)."""

    def batches(self, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (uint8 [B, S, S, 3], labels [B]) for each row of indices [steps, B]."""
        ...


class Data(NamedTuple):
    """Examples of one split: stored data [n, ...] (or `Streamed`), and labels [n] int32."""

    data: Any
    labels: np.ndarray


@dataclass(frozen=True)
class Job:
    """One training: what a search makes several of, and a run one.

    Attributes:
      name: 'train' or 'search/lr_0.01', as it stands in metrics.jsonl.
      directory: where its checkpoints lie.
      program: what a step computes.
      hyper: learning rate and weight decays.
      seed: of order, augmentation and dropout.
      train: training examples.
      val: validation examples, or None.
      batch_size: examples a step.
      eval_batch_size: examples an evaluation call.
      eval_every: epochs between validations; the last epoch is always validated.
      steps_per_call: most steps in one device program; progress and checkpoints come between calls.
      checkpoint_seconds: least time between checkpoints.
      snapshot_every: epochs between snapshots (`train/snapshots.py`); 0: none.
      min_converged: share of inner solves that has to converge in an epoch.
      stop_unconverged: whether less stops the job; otherwise it is said.
      until: the epoch after which training pauses, for a later call to go on; 0: the last. The
        schedule is that of all epochs.
      metrics: the run's metrics.jsonl.
      quiet: print nothing.
      after: images that the run trains on after this job, for the time that is left.
    """

    name: str
    directory: Path
    program: Program
    hyper: Hyper
    seed: int
    train: Data
    val: Data | None
    batch_size: int
    eval_batch_size: int = 64
    eval_every: int = 1
    steps_per_call: int = 200
    checkpoint_seconds: float = 30.0
    snapshot_every: int = 0
    min_converged: float = 0.95
    stop_unconverged: bool = False
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
