"""Exact evaluation: every example once, padding masked, the same result for any batch size.

A logit that is not finite makes an evaluation fail. Else a network that gives nothing but NaN would
be taken to answer class 0, and would be right wherever that is the label.

On several devices a batch is split over all of them, and on several processes each gets all logits
and comes to the same numbers: `logits_fn` sees to both (`train.program.make_logits`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jax_prompt.data.stored import Streamed


class NonFiniteLogits(ValueError):
    """A network gave logits that are NaN or infinite, so it has no accuracy."""


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a split gives.

    Attributes:
      predictions: the class of highest logit, [n] int32.
      losses: cross-entropy of each example, [n] float32.
      labels: [n] int32.
    """

    predictions: np.ndarray
    losses: np.ndarray
    labels: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of right predictions: an integer count over n, so no batch size shows in it."""
        return int(np.sum(self.predictions == self.labels)) / len(self.labels)

    @property
    def loss(self) -> float:
        """Mean cross-entropy, summed in float64 in the order of the examples."""
        return float(np.mean(self.losses.astype(np.float64)))


LogitsFn = Callable[[Any, Any, Any], jax.Array]


def forward(
    logits_fn: LogitsFn, trainable: Any, frozen: Any, data: Any, batch_size: int
) -> np.ndarray:
    """Computes the logits of all examples.

    Args:
      logits_fn: jitted, (trainable, frozen, x [batch_size, ...]) -> [batch_size, K], whole in each
        process.
      trainable: its first argument.
      frozen: its second argument.
      data: stored data, a tree of leaves [n, ...], or a stream of it.
      batch_size: examples a call; the last batch is padded by repeating its first example.

    Returns:
      [n, K] float32.

    Raises:
      ValueError: no examples.
    """
    count = len(data) if isinstance(data, Streamed) else len(jax.tree.leaves(data)[0])
    if count == 0:
        raise ValueError('no examples to evaluate; the split is empty')
    parts = [
        logits_fn(trainable, frozen, batch) for batch in padded_batches(data, count, batch_size)
    ]
    return np.concatenate([np.asarray(part) for part in parts])[:count]


def padded_batches(data: Any, count: int, batch_size: int) -> Iterator[Any]:
    """Yields all examples in order, in batches of one size.

    Args:
      data: a tree of leaves [n, ...], or a stream.
      count: n.
      batch_size: examples a batch; the last one is padded by repeating its first example.
    """
    rows, _ = padded_rows(count, batch_size)
    if isinstance(data, Streamed):
        for images, _ in data.batches(rows):
            yield images
    else:
        for row in rows:
            yield jax.tree.map(lambda leaf, row=row: leaf[row], data)


def padded_rows(count: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of all examples in order, [calls, batch_size], and which are real.

    The last row is padded by its first example.
    """
    rows = np.arange(-(-count // batch_size) * batch_size).reshape(-1, batch_size)
    real = rows < count
    return np.where(real, rows, rows[:, :1]), real


def evaluate(
    logits_fn: LogitsFn, trainable: Any, frozen: Any, data: Any, labels: Any, batch_size: int
) -> Evaluation:
    """Evaluates a split; see `forward` for the arguments.

    Raises:
      NonFiniteLogits: as `score`.
    """
    return score(forward(logits_fn, trainable, frozen, data, batch_size), labels)


def score(logits: np.ndarray, labels: Any) -> Evaluation:
    """Compares logits [n, K] with labels [n].

    Raises:
      NonFiniteLogits: a logit is not finite, or they lie too far apart for a float32 loss.
    """
    logits = logits.astype(np.float32)
    labels = np.asarray(labels, np.int32)
    require_finite(logits)
    top = logits.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    losses = log_sum - logits[np.arange(len(labels)), labels]
    return Evaluation(logits.argmax(axis=1).astype(np.int32), losses, labels)


def require_finite(logits: np.ndarray, names: Sequence[str] = ()) -> None:
    """Checks logits before a class is read off them.

    Args:
      logits: [n, K].
      names: of the examples, for the message; (): their numbers.

    Raises:
      NonFiniteLogits: says how many examples have a logit that is NaN or infinite, and names the
        first. The highest and the lowest logit of an example also have to differ by a float32.
    """
    with np.errstate(invalid='ignore', over='ignore'):
        fine = np.isfinite(logits.max(axis=1) - logits.min(axis=1))
    if fine.all():
        return
    bad = np.flatnonzero(~fine)
    first, name = logits[bad[0]], names[bad[0]] if names else f'example {bad[0]}'
    raise NonFiniteLogits(
        f'the logits of {len(bad)} of {len(logits)} examples are not finite; the first is {name}, '
        f'with logits from {float(first.min()):g} to {float(first.max()):g}'
    )
