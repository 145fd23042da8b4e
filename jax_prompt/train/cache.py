"""The cut: what comes before it depends on the image alone and is computed once.

This is one mechanism for all methods. A method states its cut. The activations at the cut are
stored if no random augmentation comes before it and they fit the budget. Training then starts from
them: from features for `linear`, or from the tokens at a block for methods that act later. A cut at
the first block is not stored, because the patch embedding costs little and its tokens take more
memory than the image.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.core.spec import IMAGE, Cut
from jax_prompt.core.tree import Tree
from jax_prompt.evals.classify import padded_batches
from jax_prompt.model import Classifier
from jax_prompt.train.mesh import in_context, shard_batch, unite
from jax_prompt.train.program import Program


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
