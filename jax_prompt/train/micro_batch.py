"""Computes a batch in parts: the gradients of micro-batches are summed.

The trained parameters are few, so summing their gradients costs nothing. Only the activations of
one part are in memory at a time. On a CPU they then fit the caches: a batch of 32 in parts of 4
trains faster than at once and takes a fraction of the memory (`docs/performance.md`). On other
devices, parts make a batch fit that is too large otherwise. `train/memory.py` chooses.

The loss is a sum over images divided by the batch's weight. So the sum over parts equals that of
the whole batch, except for the order of additions. Dropout and stochastic depth draw other masks,
because each part has a key of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from jax_prompt.core.tree import Tree


class BatchPart(NamedTuple):
    """What a part holds of each image.

    Attributes:
      x: what the model takes, [B, ...].
      raw: features of the frozen network [B, D], or None.
      labels: [B] int32.
      weights: [B] float32.
    """

    x: Any
    raw: Any
    labels: jax.Array
    weights: jax.Array


def in_parts(
    gradient: Callable[[Tree, BatchPart, jax.Array], Any],
    parts: int,
    probes: Tree,
    batch: BatchPart,
    key: jax.Array,
) -> Any:
    """Computes a batch's loss and gradients part by part.

    Args:
      gradient: (probes, their part, key) -> ((loss, correct), (gradients, gradients of the
        probes)), the first three of which are sums over images.
      parts: how many (`number_of_parts`), more than one.
      probes: zero arrays [B, ...].
      batch: the whole batch.
      key: the step's key; a part's own is folded from it.

    Returns:
      What `gradient` would return for the whole batch.
    """

    def body(sums: Any, inputs: Any) -> tuple[Any, Tree]:
        index, part, own_probes = inputs
        out, (grads, seen) = gradient(own_probes, part, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, sums, (out, grads)), seen

    inputs = (jnp.arange(parts), *_cut((batch, probes), parts))
    first = jax.tree.map(lambda leaf: leaf[0], inputs)
    shapes, (gradients, _) = jax.eval_shape(gradient, first[2], first[1], key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (shapes, gradients))
    (out, grads), seen = jax.lax.scan(body, zeros, inputs)
    return out, (grads, _join(seen))


def map_parts(
    function: Callable[[Any], jax.Array], x: Any, micro_batch: int, devices: int = 1
) -> jax.Array:
    """Applies a function of single images to a batch part by part.

    Args:
      function: maps leaves [b, ...] to [b, ...].
      x: leaves [B, ...].
      micro_batch: most images of a part; 0: all. A batch of symbolic size, as of a program that is
        exported, is computed whole.
      devices: devices that share the batch, and each part of it.

    Returns:
      [B, ...].
    """
    size = jax.tree.leaves(x)[0].shape[0]
    known = not jax.export.is_symbolic_dim(size)
    parts = number_of_parts(size, micro_batch, devices) if known else 1
    if parts == 1:
        return function(x)
    return _join(jax.lax.map(function, _cut(x, parts)))


def _cut(tree: Any, parts: int) -> Any:
    """Leaves [B, ...] to [parts, B / parts, ...]; each part takes every n-th image.

    Where devices share the batch, each then has some of every part.
    """
    return jax.tree.map(
        lambda leaf: jnp.swapaxes(leaf.reshape(-1, parts, *leaf.shape[1:]), 0, 1), tree
    )


def _join(tree: Any) -> Any:
    """Turns what comes of `_cut` back: leaves [parts, b, ...] to [parts * b, ...]."""
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), tree)


def number_of_parts(size: int, micro_batch: int, devices: int = 1) -> int:
    """Returns into how many equal parts of at most `micro_batch` images a batch is cut.

    The devices divide each part, where they divide the batch.

    >>> number_of_parts(32, 8), number_of_parts(30, 8), number_of_parts(6, 8), number_of_parts(6, 0)
    (4, 5, 1, 1)
    >>> number_of_parts(48, 9, devices=8)
    6
    """
    if not 0 < micro_batch < size or size % devices:
        return 1
    fewest = -(-size // max(micro_batch, devices))
    return next(n for n in range(fewest, size + 1) if size % (n * devices) == 0)
