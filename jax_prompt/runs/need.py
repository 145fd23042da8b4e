"""What a program needs on a device, and how that is read."""

import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.runs.collectives import Collective

_USED = re.compile(r'[Uu]sed ([\d.]+)([KMGT])i?B? of ([\d.]+)([KMGT])i?B? hbm')
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclass(frozen=True)
class Need:
    """What a program needs on each device, in bytes.

    Attributes:
      weights: frozen weights.
      trained: what trains, and the optimizer's state.
      images: the images that stay on the device, and a batch.
      scratch: activations and all else that comes and goes.
      too_much: what the compiler says where the program does not fit; '' otherwise.
      found: its collective operations.
    """

    weights: int
    trained: int
    images: int
    scratch: int
    too_much: str = ''
    found: tuple[Collective, ...] = ()

    @property
    def total(self) -> int:
        """All that the device holds while the program runs."""
        return self.weights + self.trained + self.images + self.scratch


def on_one(tree: Any) -> int:
    """Returns the bytes that one device holds of a tree of laid out shapes."""

    def held(leaf: Any) -> int:
        size = int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64))
        return size * (
            8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize
        )

    return sum(map(held, jax.tree.leaves(tree)))


def used(text: str) -> int:
    """Returns what a program that does not fit would use, from what the compiler of TPUs says.

    >>> used('Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.') / 2**30
    20.5
    """
    match = _USED.search(text)
    return int(float(match[1]) * _UNITS[match[2]]) if match else 0
