"""Which weights a tree holds: their identity, and the report of how they were read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from jax_prompt.backbones.architectures import Config
from jax_prompt.backbones.table import TABLE, lookup
from jax_prompt.core.colour import HALF, Colour


@dataclass(frozen=True)
class Identity:
    """Which weights these are; results carry it.

    Attributes:
      name: 'arch.tag' as recognised from the file, a name of its own for an exported one, 'arch'
        alone where nothing in the file or beside it says which weights these are.
      source: name of the original file, without its folder.
      sha256: checksum of the original file.
      format: how the original file named its weights.
      mean: per-channel mean that images in [0, 1] are normalised by.
      std: per-channel standard deviation, likewise.
      overrides: (field, value) pairs in which the network differs from the table's.
      converted_sha256: checksum of the converted file that was read, if it was one.
      asked: 'arch.tag' or 'arch' as the user asked for it.
      parent: of an exported network, the weights that it was tuned from: 'NAME SHA256'.
    """

    name: str
    source: str
    sha256: str
    format: str
    mean: Colour
    std: Colour
    overrides: tuple[tuple[str, Any], ...] = ()
    converted_sha256: str | None = None
    asked: str = ''
    parent: str = ''

    @property
    def label(self) -> str:
        """The name, or the one that was asked for where that alone has a tag."""
        return self.name if '.' in self.name else self.asked or self.name

    def config(self) -> Config:
        """Returns the network that these weights are for."""
        return replace(listed(self.name), **dict(self.overrides))

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON-ready dict."""
        made = asdict(self)
        return made | {
            'mean': list(self.mean),
            'std': list(self.std),
            'overrides': dict(self.overrides),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> 'Identity':
        """The inverse of `to_dict`.

        Raises:
          ValueError: a field is missing, unknown or of a wrong type.
        """
        known = {field.name for field in fields(cls)}
        if set(data) - known or not {'name', 'source', 'sha256', 'format', 'mean', 'std'} <= set(
            data
        ):
            raise ValueError(f'{sorted(data)} are not the fields of an identity: {sorted(known)}')
        texts = {name: data[name] for name in ('asked', 'parent') if name in data}
        texts |= {name: data[name] for name in ('name', 'source', 'sha256', 'format')}
        if not isinstance(data.get('converted_sha256'), str | None):
            texts['converted_sha256'] = data['converted_sha256']
        for name, value in texts.items():
            if not isinstance(value, str):
                raise ValueError(f'{name} is {value!r}; allowed: text')
        _check_overrides(data['name'], dict(data.get('overrides', {})))
        return cls(
            **{
                **data,
                'mean': colour(data['mean'], 'mean'),
                'std': colour(data['std'], 'std'),
                'overrides': tuple(sorted(dict(data.get('overrides', {})).items())),
            }
        )


def listed(name: str) -> Config:
    """Returns the network of 'arch.tag', or of 'arch' for a tag that the table has not.

    Raises:
      ValueError: there is no such architecture.
    """
    arch = name.partition('.')[0]
    return lookup(name if name in TABLE else arch).config


def _check_overrides(name: str, overrides: Mapping[str, Any]) -> None:
    """Refuses fields that the network has not, and values of another type than the table's."""
    base = listed(name)
    for field, value in overrides.items():
        if field not in {one.name for one in fields(base)}:
            raise ValueError(f'{field!r} is no field of a {base.family}')
        kind = type(getattr(base, field))
        wanted = (int, float) if kind is float else (list, tuple) if kind is tuple else kind
        mistaken = isinstance(value, bool) and kind is not bool
        if mistaken or not isinstance(value, wanted):
            raise ValueError(f'{field} is {value!r}; allowed: a value of type {kind.__name__}')


@dataclass(frozen=True)
class LoadReport:
    """How a file was read.

    Attributes:
      identity: which weights these are.
      config: the network that they are for; its image size is the table's.
      form: kind of file: 'npz', 'safetensors', 'torch zip' or 'torch legacy'.
      container: nested containers that were opened, 'a/b'.
      grid: patches along one side of the file's position embedding, or of its windows (Swin); 0:
        it has neither.
      used: {source name: path}.
      skipped: {source name: reason}.
      left: what lay beside the weights (optimizer, epoch, ...).
      notes: what was assumed.
      unsettled: why these weights may be meant in another way; '' where that is known. Training
        refuses such weights.
    """

    identity: Identity
    config: Config
    form: str
    container: str
    grid: int
    used: Mapping[str, str]
    skipped: Mapping[str, str]
    left: tuple[str, ...]
    notes: tuple[str, ...]
    unsettled: str = ''

    def __str__(self) -> str:
        who = self.identity
        lines = [
            f'{who.source}: {who.label}, format {who.format}, {self.form}, sha256 {who.sha256}',
            f'normalised by mean {who.mean}, std {who.std}'
            + (f'; position grid {self.grid}x{self.grid}' if self.grid else ''),
            f'used {len(self.used)} arrays'
            + (f" of container '{self.container}'" if self.container else ''),
        ]
        lines += [f'skipped {name}: {reason}' for name, reason in self.skipped.items()]
        if self.left:
            lines.append(f'left alone: {", ".join(self.left[:12])}')
        return '\n'.join(lines + [f'note: {note}' for note in self.notes])


def colour(values: Any, what: str) -> Colour:
    """Checks a mean or a std.

    Raises:
      ValueError: it is not three finite numbers, or a std is not above zero.
    """
    made = tuple(float(value) for value in values)
    if len(made) != 3 or not np.isfinite(made).all() or (what == 'std' and min(made) <= 0):
        raise ValueError(f'{what} is {values}; give three finite numbers, e.g. {HALF}')
    return (made[0], made[1], made[2])
