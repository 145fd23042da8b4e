"""Which weights a tree holds: their identity, and the report of how they were read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from jax_prompt.backbones.architectures import Config
from jax_prompt.backbones.table import HALF, Colour, lookup


@dataclass(frozen=True)
class Identity:
    """Which weights these are; results carry it.

    Attributes:
      name: 'arch.tag', or 'arch' alone for weights that the table does not list.
      source: name of the original file, without its folder.
      sha256: checksum of the original file.
      format: how the original file named its weights.
      mean: per-channel mean that images in [0, 1] are normalised by.
      std: per-channel standard deviation, likewise.
      overrides: (field, value) pairs in which the network differs from the table's.
      converted_sha256: checksum of the converted file that was read, if it was one.
    """

    name: str
    source: str
    sha256: str
    format: str
    mean: Colour
    std: Colour
    overrides: tuple[tuple[str, Any], ...] = ()
    converted_sha256: str | None = None

    def config(self) -> Config:
        """Returns the network that these weights are for."""
        return replace(lookup(self.name).config, **dict(self.overrides))

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
          ValueError: a field is missing or unknown.
        """
        known = {field.name for field in fields(cls)}
        if set(data) - known or not {'name', 'source', 'sha256', 'format', 'mean', 'std'} <= set(
            data
        ):
            raise ValueError(f'{sorted(data)} are not the fields of an identity: {sorted(known)}')
        return cls(
            **{
                **data,
                'mean': colour(data['mean'], 'mean'),
                'std': colour(data['std'], 'std'),
                'overrides': tuple(sorted(dict(data.get('overrides', {})).items())),
            }
        )


@dataclass(frozen=True)
class Report:
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

    def __str__(self) -> str:
        who = self.identity
        lines = [
            f'{who.source}: {who.name}, format {who.format}, {self.form}, sha256 {who.sha256}',
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
