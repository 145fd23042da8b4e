"""What reading weights takes for one family of backbones, and which format a file is of."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jax_prompt.backbones import families
from jax_prompt.weights.rules import Matched, refuse
from jax_prompt.weights.tables import NameTable, Refusal, Shape


class Hub(NamedTuple):
    """What a `config.json` of Hugging Face says of a network of the family.

    Attributes:
      same: {name in the file: value of a configuration} by which the file is known to be its own.
      fields: {name in the file: field of the configuration} that it decides.
      activation: the only one that is supported.
    """

    same: Callable[[Any], Mapping[str, Any]]
    fields: Mapping[str, str] = {}
    activation: str = 'gelu'


def _nothing_decided(table: NameTable, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    del table, tensors
    return {}


def _no_positions(flat: dict[str, Any], config: Any, source: str) -> int:
    del flat, config, source
    return 0


@dataclass(frozen=True)
class WeightsFamily:
    """How the weights of one family are read.

    Attributes:
      name: what a file of it is called in errors.
      formats: its tables of rules by name.
      facts_of: what a file says of its network, None where it says nothing.
      facts_asked: the same of a configuration.
      hub: what a `config.json` beside a file says.
      any_size: {last name of a path: axis} of leaves that keep the file's own size on that axis.
      settle: checks leaves, and gives what holds positions the form that a configuration wants, in
        place: (flat, configuration, source) -> side of the file's grid or window, 0 without any.
      decided: fields of the configuration that format and names decide beyond shapes.
      strangers: what a file without the first layer of any format may be.
    """

    name: str
    formats: Mapping[str, NameTable]
    facts_of: Callable[[Matched, Mapping[str, np.ndarray]], Any]
    facts_asked: Callable[[Any], Any]
    hub: Hub
    any_size: Mapping[str, int] = field(default_factory=dict)
    settle: Callable[[dict[str, Any], Any, str], int] = _no_positions
    decided: Callable[[NameTable, Mapping[str, np.ndarray]], dict[str, Any]] = _nothing_decided
    strangers: tuple[Refusal, ...] = ()

    def leaf_shapes(self, config: Any) -> dict[str, Shape]:
        """Returns {path: shape} of the leaves of a configuration; None stands for any size."""
        shapes: dict[str, Shape] = {}
        for path, shape in families.leaf_shapes(config).items():
            axis = self.any_size.get(path.rsplit('/', 1)[-1])
            shapes[path] = tuple(None if i == axis else n for i, n in enumerate(shape))
        return shapes

    def detect(
        self, names: Collection[str], container: str, expected: str, source: str
    ) -> list[NameTable]:
        """Returns the formats that a file may be of, the best guess first.

        Args:
          names: its names.
          container: the containers that were opened, 'a/b'.
          expected: the format of the published file of these weights, '' where it is not known
            which they are; where names fit it and none is certain, it is taken.
          source: the file, for the error.

        Raises:
          ValueError: no format fits, or several do and nothing tells which.
        """
        fitting = [table for table in self.formats.values() if table.prefix(names) is not None]
        if not fitting:
            known = f'{source} is no {self.name} of a known format'
            refuse(self.strangers, names, known, f'a plain {self.name}')
            raise ValueError(
                f'{known} ({list(self.formats)}); it lacks '
                f'its first layer; its names begin with {sorted(names)[:6]}'
            )
        shown = [table for table in fitting if table.shows(names, container.split('/'))]
        agreeing = [table for table in shown or fitting if table.name == expected]
        if agreeing or shown:
            return [(agreeing or shown)[0]]
        if len(fitting) > 1 and any(t.prefix(names) == 'module.' for t in fitting):
            # `module.` is MoCo v3's and that of anything trained in parallel; heads and
            # normalisation may differ, so no guess is good enough.
            raise ValueError(
                f'{source} may be of format {" or ".join(table.name for table in fitting)}; give '
                f'the format (--config.weights_format={fitting[-1].name}, or --format of '
                'jax-prompt convert), or the backbone with its tag'
            )
        possible = [table for table in fitting if table.may_be(names)] or fitting
        return possible[::-1]  # the plain names, which all others started from, come last
