"""What a format is made of: rules for names, signs, readings and refusals, all as data."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Transform = Callable[[np.ndarray], np.ndarray]
Shape = tuple[int | None, ...]


def same(x: np.ndarray) -> np.ndarray:
    """Returns the array as it is."""
    return x


def transpose(x: np.ndarray) -> np.ndarray:
    """A torch linear weight [out, in] as a kernel [in, out]."""
    return x.T


def conv_kernel(x: np.ndarray) -> np.ndarray:
    """A torch convolution weight [out, in, h, w] as a kernel [h, w, in, out]."""
    return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x


def flat(x: np.ndarray) -> np.ndarray:
    """[C, 1, 1] as [C]."""
    return x.reshape(-1)


def merge_last(x: np.ndarray) -> np.ndarray:
    """Joins the last two axes: [D, H, D/H] to [D, D], [H, D/H] to [D]."""
    return x.reshape(*x.shape[:-2], -1) if x.ndim >= 2 else x


def merge_first(x: np.ndarray) -> np.ndarray:
    """Joins the first two axes: [H, D/H, D] to [D, D]."""
    return x.reshape(-1, *x.shape[2:]) if x.ndim >= 2 else x


def row(x: np.ndarray) -> np.ndarray:
    """[D] or [R, D] as [1, R, D]."""
    return x.reshape(1, -1, x.shape[-1]) if x.ndim else x


@dataclass(frozen=True)
class NameRule:
    """How one kind of leaf is named.

    Attributes:
      pattern: regular expression for the whole source name; a group `layer` is the layer's number,
        in its stage where there is a group `stage`, the number of a stage.
      path: path in the tree; `{layer}` becomes the layer's number in the whole network, `{start}`
        and `{stop}` those of the first layer of the stage and of the layer after it, zero-padded.
      transform: from the source's layout to the tree's; must only rearrange.
      part: (index, parts) where the leaf is one of several that are joined along the last axis.
    """

    pattern: str
    path: str
    transform: Transform = same
    part: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class Reading:
    """What weights of one format may want beyond what their names and shapes say.

    Attributes:
      who: whose weights want this, for errors.
      imagenet: whether images are normalised by ImageNet's mean and std; else by 0.5 and 0.5.
      fields: fields of the network's configuration, for example its pooling.
      needs: patterns that each have to occur among the names.
      absent: patterns that rule this reading out.
    """

    who: str
    imagenet: bool = True
    fields: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    def fits(self, names: Collection[str]) -> bool:
        """Whether a file with these names may be meant like this."""
        return agree(self.needs, self.absent, names)


@dataclass(frozen=True)
class Refusal:
    """A network that is not supported, known by its names.

    Attributes:
      what: what the file is.
      patterns: a file in which each of these occurs is that.
    """

    what: str
    patterns: tuple[str, ...]

    def found(self, names: Collection[str]) -> str | None:
        """Returns a name that shows it, None if the file is something else."""
        found = [next((n for n in names if re.fullmatch(p, n)), None) for p in self.patterns]
        return None if None in found else found[0]


@dataclass(frozen=True)
class NameTable:
    """How one source names its weights.

    Attributes:
      name: the format's name.
      anchor: a name that every such file has, after the prefix.
      prefixes: what may stand before every name; the first under which the anchor exists is taken.
      rules: the leaves.
      skips: {pattern: reason} for what is left out on purpose; tried on names without the prefix
        and on whole names.
      refusals: networks that are no plain ones of the family; the first that fits is named.
      family: what such a file holds, for errors.
      signs: sets of patterns; a file in which each pattern of a set occurs is of this format.
      containers: containers that speak for this format.
      needs: patterns without which a file is not of this format, unless it is asked for.
      absent: patterns for names that speak against this format.
      readings: what weights of this format may want beyond their names and shapes.
    """

    name: str
    anchor: str
    prefixes: tuple[str, ...]
    rules: tuple[NameRule, ...]
    skips: Mapping[str, str] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    signs: tuple[tuple[str, ...], ...] = ()
    containers: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    family: str = 'ViT'
    readings: tuple[Reading, ...] = (Reading(''),)

    def prefix(self, names: Collection[str]) -> str | None:
        """Returns the prefix of a file with these names, None if it is of another format."""
        return next((p for p in self.prefixes if p + self.anchor in names), None)

    def shows(self, names: Collection[str], containers: Collection[str]) -> bool:
        """Returns whether names or containers speak for this format in particular."""
        if not self.may_be(names):
            return False
        signed = any(all(occurs(p, names) for p in patterns) for patterns in self.signs)
        return signed or any(container in self.containers for container in containers)

    def may_be(self, names: Collection[str]) -> bool:
        """Whether nothing in the names speaks against this format."""
        return agree(self.needs, self.absent, names)


def agree(needs: Collection[str], absent: Collection[str], names: Collection[str]) -> bool:
    """Whether each pattern of `needs` and none of `absent` occurs among the names."""
    if any(occurs(pattern, names) for pattern in absent):
        return False
    return all(occurs(pattern, names) for pattern in needs)


def occurs(pattern: str, names: Collection[str]) -> bool:
    """Whether some name is of this pattern."""
    return any(re.fullmatch(pattern, name) for name in names)


def own_table(anchor: str, *readings: Reading) -> NameTable:
    """Returns the format that this package writes: names are the paths of the tree."""
    rules = (NameRule('(?!head/)(?P<path>.+)', '{path}'),)
    skips = {'head/.*': 'classifier head'}
    return NameTable('jax_prompt', anchor, ('',), rules, skips, readings=readings)
