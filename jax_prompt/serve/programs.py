"""The two programs that answer: logits of mixed tasks, and features that tasks share."""

from functools import partial

import jax

from jax_prompt.train.program import with_length


@partial(jax.jit, static_argnames='kind')
def mixed_logits(kind, own, frozen, images, raw, lengths):
    """Computes the logits of images, each with the leaves of its own pack.

    Args:
      kind: the `Kind` of all packs.
      own: what each image's pack adds, leaves [B, ...].
      frozen: the backbone's parameters, which are not mapped.
      images: stored images [B, S, S, 3], or None where features are enough.
      raw: features of the frozen network [B, D], or None where the kind shares none.
      lengths: number of prompts of each image's pack, [B] int32, or None where all have as many.

    Returns:
      [B, K] float32.
    """

    def one(own, image, raw, length):
        image, raw = (None if x is None else x[None] for x in (image, raw))
        return kind.logits(with_length(own, length), frozen, image, raw)[0]

    return jax.vmap(one)(own, images, raw, lengths)


@partial(jax.jit, static_argnames='kind')
def shared_features(kind, frozen, images):
    """Computes the frozen network's features [B, D] of stored images [B, S, S, 3]."""
    return kind.features(frozen, images)
