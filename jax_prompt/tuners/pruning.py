"""Pruning of prompts by the gradient of masks: whole tokens, then segments of those that stay.

Han et al., "E^2VPT: An Effective and Efficient Approach for Visual Prompt Tuning",
arXiv:2307.13770. A mask, 1 everywhere, multiplies each prompt token and each of its R segments of
channels; the importance of a token or segment is the expected size of the loss's gradient by its
mask over the images. The least important go, and training starts again from the initial values
(rewinding) with what is kept: the same tuner and seed with the option `kept`.

Departures: segments are consecutive channels (the released code deals channels out in turn), their
scores come from their own masks (the code uses their token's), each layer has its own masks (in the
code one mask serves all layers), and a gradient's size is taken image by image (the code adds up
signed gradients of batches). As many tokens go in each layer, so that layers stay alike.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SEGMENTS = 16

Kept = tuple[tuple[tuple[int, ...], ...], ...]


class Masks(NamedTuple):
    """Factors of prompts, or scores of the same shape.

    Attributes:
      tokens: [L, P] float32, or [L, B, P] for each image its own.
      segments: [L, P, R] float32, or [L, B, P, R].
    """

    tokens: jax.Array
    segments: jax.Array


def full_masks(num_layers: int, num_prompts: int, num_segments: int = SEGMENTS) -> Masks:
    """Returns the masks that keep everything, [L, P] and [L, P, R]."""
    shape = (num_layers, num_prompts)
    return Masks(jnp.ones(shape), jnp.ones((*shape, num_segments)))


def apply_mask(prompts: jax.Array, mask: jax.Array) -> jax.Array:
    """Multiplies each segment of prompts [..., P, D] by its entry of mask [..., P, R]."""
    channels = prompts.shape[-1] // mask.shape[-1]
    return prompts * jnp.repeat(mask, channels, axis=-1).astype(prompts.dtype)


def importance(losses: Callable[[Masks], jax.Array], masks: Masks, batch_size: int) -> Masks:
    """Computes the scores of one batch: sums over images of |d loss of the image / d mask|.

    Args:
      losses: from masks of each image, [L, B, P] and [L, B, P, R], to the images' losses [B]. The
        loss of an image must depend on its own masks only.
      masks: where the gradient is taken, [L, P] and [L, P, R].
      batch_size: B.

    Returns:
      Scores, [L, P] and [L, P, R]; those of several batches add up.
    """
    own = jax.tree.map(lambda m: jnp.repeat(m[:, None], batch_size, axis=1), masks)
    grads = jax.grad(lambda m: jnp.sum(losses(m)))(own)
    return jax.tree.map(lambda g: jnp.sum(jnp.abs(g), axis=1), grads)


def prune(scores: Masks, token_share: float, segment_share: float) -> Kept:
    """Decides what is kept: without the least important tokens, and segments of each other token.

    Args:
      scores: importance, [L, P] and [L, P, R].
      token_share: share of each layer's tokens that go, in [0, 1), rounded down.
      segment_share: share of each remaining token's segments that go, likewise.

    Returns:
      1 for a kept and 0 for a pruned segment, by layer, prompt and segment, as nested tuples: the
      option `kept` of E2VPT. A pruned token has no segment. Equal scores: the later stays.

    Raises:
      ValueError: a share outside [0, 1), or scores that are not finite.
    """
    for name, share in (('token_share', token_share), ('segment_share', segment_share)):
        if not 0.0 <= share < 1.0:
            raise ValueError(f'{name} is {share}; allowed: [0, 1), what is pruned')
    tokens, segments = (np.asarray(x, np.float64) for x in scores)
    if not (np.isfinite(tokens).all() and np.isfinite(segments).all()):
        raise ValueError('scores are not finite; check the loss and the weights')
    kept = _largest(tokens, token_share)[..., None] & _largest(segments, segment_share)
    return freeze(kept.astype(int).tolist())


def is_pruned(kept: object, num_prompts: int, token_share: float, segment_share: float) -> bool:
    """Whether a value read from a file is one that `prune` may return for P prompts and shares."""
    try:
        array = np.asarray(kept)
    except ValueError:
        return False
    if array.ndim != 3 or array.shape[1:] != (num_prompts, SEGMENTS) or array.dtype.kind != 'i':
        return False
    tokens = array.any(axis=-1)
    as_many_tokens = tokens.sum(axis=-1) == num_prompts - _gone(num_prompts, token_share)
    as_many_segments = array[tokens].sum(axis=-1) == SEGMENTS - _gone(SEGMENTS, segment_share)
    return bool(np.isin(array, (0, 1)).all() and as_many_tokens.all() and as_many_segments.all())


def _gone(count: int, share: float) -> int:
    return math.floor(share * count + 1e-9)


def _largest(scores: np.ndarray, share: float) -> np.ndarray:
    """Marks along the last axis what stays when the smallest `share` go."""
    gone = _gone(scores.shape[-1], share)
    order = np.argsort(scores, axis=-1, kind='stable')
    kept = np.ones(scores.shape, bool)
    np.put_along_axis(kept, order[..., :gone], False, axis=-1)
    return kept


def freeze(kept: object) -> Kept:
    """Returns nested lists as nested tuples, which can be hashed."""
    return tuple(map(freeze, kept)) if isinstance(kept, list | tuple) else kept  # type: ignore


def check_kept(kept: Kept, num_prompts: int) -> None:
    """Checks the option `kept`.

    Raises:
      ValueError: no [L, P, R] of 0 and 1, or layers that keep unlike numbers of tokens.
    """
    try:
        array = np.asarray(kept)
    except ValueError:
        array = np.zeros(0)
    if array.ndim != 3 or array.shape[1] != num_prompts or not np.isin(array, (0, 1)).all():
        raise ValueError(
            f'kept has the shape {array.shape}; allowed: (), or 0 and 1 by layer, prompt '
            f'({num_prompts}) and segment, as `prune` returns'
        )
    numbers = array.any(axis=-1).sum(axis=-1)
    if numbers.min() < 1 or numbers.min() != numbers.max():
        raise ValueError(
            f'kept leaves {numbers.tolist()} tokens by layer; allowed: the same number, at least '
            '1, in each, as `prune` returns'
        )
