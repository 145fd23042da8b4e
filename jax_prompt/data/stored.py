"""What stands for a split's examples in memory: arrays, images with raw features, or a stream."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np


class WithRaw(NamedTuple):
    """Stored images with the frozen network's features of each, for tuners that need them.

    Attributes:
      images: uint8 [n, S, S, 3].
      raw: float32 [n, D].
    """

    images: np.ndarray | jax.Array
    raw: np.ndarray | jax.Array


@runtime_checkable
class Streamed(Protocol):
    """Examples that do not fit the device and come batch by batch, as `data/loader.py` reads them.

    `isinstance(data, Streamed)` is the one test of whether examples are streamed.
    """

    def __len__(self) -> int:
        """Returns the number of examples."""
        ...

    def batches(self, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (uint8 [B, S, S, 3], labels [B]) for each row of indices [steps, B]."""
        ...


# Images uint8 [n, S, S, 3], activations at the cut float32 [n, ...], or one of the two above.
Stored = np.ndarray | jax.Array | WithRaw | Streamed
