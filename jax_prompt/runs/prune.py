"""Pruning between two trainings: score the masks of a trained run, drop the least, rewind.

For tuners with the option `kept` (E2VPT). The first training is an ordinary one; the second starts
from the same initial values with what is kept. Scores come from the training images alone.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_prompt.core.json_file import load_object
from jax_prompt.core.ranges import check_values, share
from jax_prompt.core.tree import Tree, merge
from jax_prompt.evals.classify import padded_batches, padded_rows
from jax_prompt.train.job import Job
from jax_prompt.train.mesh import in_context, shard_batch, unite
from jax_prompt.train.program import Program
from jax_prompt.train.step import cross_entropy
from jax_prompt.tuners.e2vpt import with_masks
from jax_prompt.tuners.pruning import Kept, Masks, full_masks, importance, is_pruned, prune


@dataclass(frozen=True)
class Prune:
    """How much is pruned after the first training.

    Attributes:
      token_share: share of each layer's prompts that is pruned, in [0, 1).
      segment_share: share of the 16 segments of each remaining prompt that is pruned, in [0, 1).
    """

    token_share: float = share(0.0)
    segment_share: float = share(0.0)

    def __post_init__(self):
        check_values(self, 'prune.')

    @property
    def active(self) -> bool:
        """Whether anything is pruned."""
        return bool(self.token_share or self.segment_share)


@partial(jax.jit, static_argnames='program')
def _scores(program: Program, trainable: Tree, frozen: Tree, x, labels, weights) -> Masks:
    params = merge(trainable, frozen)
    x, labels, weights = (shard_batch(a, program.mesh) for a in (x, labels, weights))
    tuner: Any = program.classifier.tuner

    def losses(masks: Masks) -> jax.Array:
        masked = {**params, 'tuner': with_masks(params['tuner'], masks)}
        with in_context(program.mesh):
            logits = program.classifier.apply(masked, program.view(x), start=program.start)
        return cross_entropy(logits, labels) * weights

    masks = full_masks(program.classifier.spec.num_layers, tuner.num_prompts)
    return unite(importance(losses, masks, len(labels)), program.mesh)


def choose_kept(job: Job, trainable: Tree, options: Prune) -> Kept:
    """Decides what is kept, from the importance summed over training examples.

    Args:
      job: the first training.
      trainable: what it ended with.
      options: the shares that go.

    Returns:
      The tuner's option `kept`.
    """
    (data, labels), size = job.train, job.engine.eval_batch_size
    rows, real = padded_rows(len(labels), size)
    batches = padded_batches(data, len(labels), size)
    score = partial(_scores, job.program, trainable, job.frozen)
    total: Any = None
    for x, row, weights in zip(batches, rows, real, strict=True):
        ours = score(x, labels[row], weights.astype(np.float32))
        ours = jax.tree.map(lambda s: np.asarray(s, np.float64), ours)
        total = ours if total is None else jax.tree.map(np.add, total, ours)
    return prune(total, options.token_share, options.segment_share)


def read_pruned(path: Path, options: Prune, num_prompts: int, way_out: str) -> Any:
    """Reads from pruned.json what `choose_kept` returned.

    Args:
      path: the file.
      options: the shares that went.
      num_prompts: P, before pruning.
      way_out: what the reader of an error can do.

    Raises:
      ValueError: it is damaged; names the file.
    """
    kept = load_object(path, way_out, ('kept',))['kept']
    if not is_pruned(kept, num_prompts, options.token_share, options.segment_share):
        raise ValueError(
            f'{path} is damaged: it keeps other shares of {num_prompts} prompts than {options} '
            f'leaves: {way_out}'
        )
    return kept


def pruned_program(program: Program, kept: Any) -> Program:
    """Returns the program whose tuner has only what is kept."""
    tuner: Any = program.classifier.tuner
    classifier = replace(program.classifier, tuner=replace(tuner, kept=kept))
    return replace(program, classifier=classifier)
