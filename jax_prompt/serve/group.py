"""Packs of one kind, stacked on the device: a slot each, up to a capacity.

The stack has leaves [C, ...], with a capacity C that is a power of two. Adding, replacing or
removing a pack writes a slot and compiles nothing, as long as there are slots. What compiles anew:
a doubled capacity (the two small programs that write and gather), a wider head or more prompts (the
network's program too), and the first pack with another number of prompts (they are masked from then
on). All packs also lie on the host. Where the budget allows no more slots, the pack that was used
least recently gives its slot to the one that is asked for.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.core.tree import Tree, unflatten
from jax_prompt.serve.kind import Kind
from jax_prompt.train.members import padded

Leaves = Mapping[str, np.ndarray]


@partial(jax.jit, donate_argnums=0)
def write_slot(stack, row, slot):
    """Writes a pack's leaves into a slot of the stack, which is donated."""
    return jax.tree.map(lambda leaf, own: leaf.at[slot].set(own), stack, row)


@jax.jit
def gather_slots(stack, slots):
    """Returns the leaves of each image's pack, [B, ...], from slots [B] int32."""
    return jax.tree.map(lambda leaf: leaf[slots], stack)


class Group:
    """Packs of one kind on the device.

    Args:
      kind: the kind of the first.
      dtypes: dtype of each leaf that a pack adds.
      capacity: slots to start with, as far as the budget allows.
      may_grow: asks the budget: takes the bytes of the stack as it is and as it would be.
    """

    def __init__(
        self,
        kind: Kind,
        dtypes: Mapping[str, Any],
        capacity: int,
        may_grow: Callable[[int, int], bool],
    ):
        self.kind = kind.sized(power(kind.num_classes), kind.num_prompts)
        self.capacity, self.masked = 0, False
        self._dtypes, self._may_grow = dict(dtypes), may_grow
        self._stack: Tree = {}
        self._packs: dict[str, Leaves] = {}
        self._lengths: dict[str, int] = {}
        self._slots: dict[str, int] = {}  # the least recently used first
        self._rebuild(self.kind, capacity)

    def __len__(self) -> int:
        return len(self._packs)

    @property
    def resident(self) -> tuple[str, ...]:
        """Names of the packs on the device, the least recently used first."""
        return tuple(self._slots)

    @property
    def bytes(self) -> int:
        """Bytes of the stack."""
        return self._row_bytes * self.capacity

    @property
    def _row_bytes(self) -> int:
        return sum(
            math.prod(s.shape) * self._dtypes[path].itemsize for path, s in self.kind.shapes.items()
        )

    def add(self, name: str, leaves: Leaves, kind: Kind) -> None:
        """Adds a pack, or replaces it.

        Args:
          name: the task.
          leaves: what the pack adds, by path.
          kind: the pack's kind, with its own numbers of classes and prompts.
        """
        classes = max(self.kind.num_classes, power(kind.num_classes))
        prompts = max(self.kind.num_prompts, kind.num_prompts)
        self._packs[name], self._lengths[name] = leaves, kind.num_prompts
        wanted = self.kind.sized(classes, prompts)
        self.masked |= self.kind.masks and set(self._lengths.values()) != {prompts}
        if wanted != self.kind:
            self._rebuild(wanted, self.capacity)
        slot = self._slots.pop(name, None)
        if slot is None and self._free() is None:
            self._grow()
        self._load(name, slot)

    def remove(self, name: str) -> None:
        """Removes a pack; its slot is free."""
        del self._packs[name], self._lengths[name]
        self._slots.pop(name, None)

    def gather(self, names: list[str]) -> tuple[Tree, np.ndarray | None]:
        """Returns the leaves of each image's pack, [B, ...], and its number of prompts, [B].

        Args:
          names: the task of each image; at most `capacity` different ones.
        """
        wanted = dict.fromkeys(names)
        for name in wanted:
            if name in self._slots:
                self._slots[name] = self._slots.pop(name)  # to the end
        for name in wanted:
            if name not in self._slots:
                self._load(name, None)
        slots = np.asarray([self._slots[name] for name in names], np.int32)
        own = unflatten(gather_slots(self._stack, slots))
        return own, self._lengths_at[slots] if self.masked else None

    def _free(self) -> int | None:
        taken = set(self._slots.values())
        return next((slot for slot in range(self.capacity) if slot not in taken), None)

    def _load(self, name: str, slot: int | None) -> None:
        """Puts a pack on the device, in place of the least recently used where none is free."""
        slot = self._free() if slot is None else slot
        if slot is None:
            slot = self._slots.pop(next(iter(self._slots)))
        row = padded(self._packs[name], self.kind.shapes)
        self._stack = write_slot(self._stack, row, np.int32(slot))
        self._slots[name] = slot
        self._lengths_at[slot] = self._lengths[name]

    def _grow(self) -> None:
        """Doubles the capacity, if the budget allows it."""
        capacity = 2 * self.capacity
        if self._may_grow(self.bytes, self._row_bytes * capacity):
            self._rebuild(self.kind, capacity)

    def _rebuild(self, kind: Kind, capacity: int) -> None:
        """Makes the stack anew, with the packs that were on the device."""
        names, before = list(self._slots), self.bytes
        self.kind = kind
        while capacity > 1 and not self._may_grow(before, self._row_bytes * capacity):
            capacity //= 2
            names = names[-capacity:]
        self._stack, self._slots, self.capacity = {}, {}, capacity
        self._lengths_at = np.zeros(capacity, np.int32)
        self._stack = {
            path: jnp.zeros((capacity, *like.shape), self._dtypes[path])
            for path, like in kind.shapes.items()
        }
        for name in names:
            self._load(name, None)


def power(number: int) -> int:
    """Returns the smallest power of two that is no less.

    >>> [power(number) for number in (1, 2, 3, 64, 65)]
    [1, 2, 4, 64, 128]
    """
    return 1 << max(number - 1, 0).bit_length()
