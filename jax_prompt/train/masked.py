"""Pretraining without labels: a masked autoencoder.

He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv:2111.06377. The encoder is the
backbone. It sees a random share of each image's patches (1 - `patch_drop_rate`). A small decoder
predicts the pixels of the others, normalised by the mean and standard deviation of their patch. The
loss is the mean squared error over the masked patches.

The linear head trains beside, on features through which no gradient passes. So the accuracy on val
that a run reports is that of a linear probe, and no label reaches backbone or decoder. A clip of
the global norm would break that, because the head's gradient is part of the norm.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jax_prompt.backbones.vit import visible_patches
from jax_prompt.core.ranges import at_least, check_values
from jax_prompt.core.tree import Tree, merge
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.nn.layers import patches
from jax_prompt.train.mesh import in_context
from jax_prompt.train.micro_batch import BatchPart
from jax_prompt.train.program import Program
from jax_prompt.train.step import cross_entropy, share_of
from jax_prompt.tuners.decoder import MaskedDecoder


@dataclass(frozen=True)
class Masked:
    """The decoder of a masked autoencoder; `model.patch_drop_rate` is the share that is masked.

    Attributes:
      depth: number of the decoder's blocks; 0: training is on labels.
      width: width of the decoder's tokens.
      num_heads: attention heads of the decoder.
    """

    depth: int = at_least(0)
    width: int = at_least(64, 4)
    num_heads: int = at_least(2, 1)

    def __post_init__(self):
        check_values(self, 'masked.')
        if self.width % 4 or self.width % self.num_heads:
            raise ValueError(
                f'masked.width is {self.width}; allowed: a multiple of 4 and of masked.num_heads '
                f'({self.num_heads})'
            )

    @property
    def active(self) -> bool:
        """Whether training reconstructs masked patches."""
        return self.depth > 0

    def check(self, drops: bool, share: float, clip_norm: float, everything: bool) -> None:
        """Checks what a run combines with a masked autoencoder.

        Args:
          drops: whether the backbone can leave out patches.
          share: of the patches that are left out.
          clip_norm: the optimizer's.
          everything: whether the method trains the whole backbone and nothing else.

        Raises:
          ValueError: one of these does not fit.
        """
        if not self.active:
            return
        if not (drops and everything):
            raise ValueError(
                "masked.depth is set; a masked autoencoder needs a ViT, and method 'retrain' (from "
                "random weights) or 'full' (from a file)"
            )
        if not share:
            raise ValueError(
                'masked.depth is set and model.patch_drop_rate is 0, so no patch is masked; set '
                'model.patch_drop_rate=0.75'
            )
        if clip_norm:
            raise ValueError(
                f'masked.depth is set and optim.clip_norm is {clip_norm:g}; a clip lets labels '
                'reach the backbone through the norm of the head: set optim.clip_norm=0'
            )


def masked_loss(
    program: Program,
    trainable: Tree,
    probes: Tree,
    part: BatchPart,
    key: jax.Array,
    *,
    frozen: Tree,
    total: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Computes the loss of a masked autoencoder; takes and returns what `step.label_loss` does."""
    del probes
    params, x = merge(trainable, frozen), part.x
    classifier = program.classifier
    decoder, spec = classifier.tuner, classifier.spec
    assert isinstance(decoder, MaskedDecoder)
    with in_context(program.mesh):
        out: Any = classifier.backbone.apply(
            {'params': params['backbone']}, x, _AllTokens(), key=key, train=True
        )
    features, tokens = out
    index = visible_patches(key, len(x), classifier.backbone.config)
    predicted = decoder.reconstruct(params['tuner'], tokens, index, spec)
    losses = reconstruction_loss(predicted, patches(x, spec.patch_size), index)
    head = params['head']
    logits = jax.lax.stop_gradient(features) @ head['kernel'] + head['bias']
    probe = cross_entropy(logits, part.labels)
    # The value is the autoencoder's alone; the head still has its gradient.
    losses = losses + probe - jax.lax.stop_gradient(probe)
    return share_of(part, losses, logits, total)


def as_masked(program: Program, masked: Masked) -> Program:
    """Returns the program of a masked autoencoder with the same backbone and head."""
    decoder = MaskedDecoder(masked.width, masked.depth, masked.num_heads)
    classifier = replace(program.classifier, tuner=decoder)
    return replace(program, classifier=classifier, loss=masked_loss)


def reconstruction_loss(predicted: jax.Array, target: jax.Array, index: jax.Array) -> jax.Array:
    """Returns each image's mean squared error over its masked patches, [B] float32.

    Args:
      predicted: [B, N, p * p * 3].
      target: pixels of all patches, likewise. Each patch is normalised by its own mean and standard
        deviation (n - 1 in the denominator, 1e-6 added to the variance, as in the released code).
      index: places of the visible patches, [B, V] int32.
    """
    mean = jnp.mean(target, axis=-1, keepdims=True)
    variance = jnp.var(target, axis=-1, keepdims=True, ddof=1)
    target = (target - mean) / jnp.sqrt(variance + 1e-6)
    errors = jnp.mean(jnp.square(predicted - target), axis=-1)  # [B, N]
    hidden = 1.0 - jnp.sum(jax.nn.one_hot(index, errors.shape[1]), axis=1)  # [B, N]
    return jnp.sum(errors * hidden, axis=1) / jnp.sum(hidden, axis=1)


@dataclass(frozen=True)
class _AllTokens(Tuner):
    """Makes a backbone return (pooled features [B, D], normalised final tokens [B, C + V, D])."""

    def pool(self, place: Place, tokens: jax.Array, features: jax.Array) -> Any:
        del place
        return features, tokens
