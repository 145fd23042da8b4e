"""The cut: what comes before it depends on the image alone and is computed once.

This is one mechanism for all methods. A method states its cut. The activations at the cut are
stored if no random augmentation comes before it and they fit the budget. Training then starts from
them: from features for `linear`, or from the tokens at a block for methods that act later. A cut at
the first block is not stored, because the patch embedding costs little and its tokens take more
memory than the image.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.core.spec import FEATURES, IMAGE, Cut
from jax_prompt.core.tree import Tree
from jax_prompt.data.stored import Streamed, WithRaw
from jax_prompt.evals.classify import padded_batches
from jax_prompt.model import Classifier
from jax_prompt.runs.config import RunConfig
from jax_prompt.train.job import Data
from jax_prompt.train.mesh import in_context, shard_batch, unite
from jax_prompt.train.program import Program


@dataclass(frozen=True)
class Prefix:
    """The part of the network that is computed once.

    Attributes:
      program: the program that starts from the image.
      backbone: the backbone's frozen parameters, on the devices of the run.
      cut: where training starts; IMAGE: nothing is computed before.
      with_raw: training starts from the image, and the features of the frozen network are computed
        once beside it.
      batch_size: images a call.
      tuner: the tuner's parameters where it acts before the cut and none of them trains.
    """

    program: Program
    backbone: Tree
    cut: Cut
    with_raw: bool
    batch_size: int
    tuner: Tree | None = None

    def apply(self, data: Data) -> Data:
        """Returns a split's data at the cut, or its images with their raw features."""
        prefix = partial(
            frozen_prefix, self.program, backbone=self.backbone, batch_size=self.batch_size
        )
        if self.cut != IMAGE:
            return Data(prefix(self.cut, images=data.data, tuner=self.tuner), data.labels)
        if self.with_raw and not isinstance(data.data, Streamed | WithRaw):
            raw = prefix(FEATURES, images=data.data)
            return Data(WithRaw(data.data, raw), data.labels)
        return data

    def frozen_after(self, frozen: Tree) -> Tree:
        """Returns the frozen leaves that training from the cut still needs."""
        if self.cut < FEATURES:
            return frozen
        return {key: value for key, value in frozen.items() if key != 'backbone'}


def make_prefix(config: RunConfig, program: Program, frozen: Tree, num_images: int) -> Prefix:
    """Decides where training starts.

    Args:
      config: the run.
      program: starts from the image.
      frozen: the frozen tree, on the devices of the run. Prompts that do not train lie there; then
        the head alone trains, on features.
      num_images: images of all splits together.
    """
    facts, backbone = program.classifier.facts, frozen.get('backbone', {})
    tuner = None if config.train_prompts or len(config.lengths) > 1 else frozen.get('tuner')
    still = facts.constant and tuner is not None
    # A random stochastic depth inside the prefix would be a training-time change of it.
    allowed = bool(backbone) and not config.model.drop_path_rate
    budget = config.input.cache_mb if allowed else 0.0

    def place(wanted: Cut) -> Cut:
        return cached_cut(program, wanted, num_images, budget, backbone)

    cut = place(FEATURES if still else facts.cut) if allowed else IMAGE
    # Training starts from the image, but the tuner wants the bare network's features too.
    wants = allowed and facts.needs_raw and cut == IMAGE
    with_raw = wants and place(FEATURES) == FEATURES
    size = config.engine.eval_batch_size
    return Prefix(program, backbone, cut, with_raw, size, tuner if still else None)


def cached_cut(
    program: Program, cut: Cut, num_images: int, budget_mb: float, backbone: Tree
) -> Cut:
    """Decides where stored data may stand.

    Args:
      program: the training program that would start from the image.
      cut: the method's cut.
      num_images: images of all splits together.
      budget_mb: memory for stored activations, in MB; 0: no cache.
      backbone: the backbone's parameters (their shapes are read).

    Returns:
      The cut, or IMAGE where caching is not allowed, not worth it or does not fit.
    """
    if cut.block < 1 or program.augment.is_random or not budget_mb:
        return IMAGE
    size = program.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    out = _from_view.eval_shape(program.classifier, cut, backbone, image)
    megabytes = num_images * out.size * out.dtype.itemsize / 1e6
    return cut if megabytes <= budget_mb else IMAGE


# Jitted for its shapes alone, which JAX then keeps for the next run.
@partial(jax.jit, static_argnames=('classifier', 'cut'))
def _from_view(classifier: Classifier, cut: Cut, backbone: Tree, x: jax.Array) -> jax.Array:
    return classifier.prefix(backbone, x, cut)


@partial(jax.jit, static_argnames=('program', 'cut'))
def _prefix(
    program: Program, cut: Cut, backbone: Tree, tuner: Tree | None, x: jax.Array
) -> jax.Array:
    def forward(part: jax.Array) -> jax.Array:
        with in_context(program.mesh):
            return program.classifier.prefix(backbone, program.view(part), cut, tuner)

    out = program.in_parts(forward, shard_batch(x, program.mesh))
    return unite(out, program.mesh)[: len(x)]


def frozen_prefix(
    program: Program,
    cut: Cut,
    backbone: Tree,
    images: Any,
    batch_size: int,
    tuner: Tree | None = None,
) -> np.ndarray:
    """Computes the activations at the cut for all images.

    Args:
      program: the program that starts from the image.
      cut: where the activations are taken.
      backbone: the backbone's parameters, all frozen before the cut.
      images: uint8 [n, S, S, 3], or a stream of them.
      batch_size: images a call.
      tuner: the tuner's parameters where it acts before the cut and none of them trains.

    Returns:
      [n, ...] float32 on the host.
    """
    parts = [
        np.asarray(_prefix(program, cut, backbone, tuner, batch))
        for batch in padded_batches(images, len(images), batch_size)
    ]
    return np.concatenate(parts)[: len(images)]
