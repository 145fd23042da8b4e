"""What reading weights takes for each family of backbones, and which format a file is of."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_prompt.weights import resnet, resnet_facts, swin, swin_facts, vit, vit_facts
from jax_prompt.weights.rules import Matched, refuse
from jax_prompt.weights.tables import NameTable, Refusal, Shape


@dataclass(frozen=True)
class WeightsFamily:
    """How the weights of one family are read.

    Attributes:
      name: what a file of it is called in errors.
      formats: its tables of rules by name.
      facts_of: what a file says of its network, None where it says nothing.
      facts_asked: the same of a configuration.
      leaf_shapes: {path: shape} of the leaves of a configuration.
      settle_positions: gives what holds positions the form that a configuration wants, in place;
        returns the side of the file's grid or window.
      decided: fields of the configuration that format and names decide beyond shapes.
      strangers: what a file without the first layer of any format may be.
    """

    name: str
    formats: Mapping[str, NameTable]
    facts_of: Callable[[Matched, Mapping[str, np.ndarray]], Any]
    facts_asked: Callable[[Any], Any]
    leaf_shapes: Callable[[Any], dict[str, Shape]]
    settle_positions: Callable[[dict[str, Any], Any, str], int]
    decided: Callable[[NameTable, Mapping[str, np.ndarray]], dict[str, Any]]
    strangers: tuple[Refusal, ...] = ()

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


FAMILIES: Mapping[str, WeightsFamily] = {
    'vit': WeightsFamily(
        'ViT',
        vit.FORMATS,
        vit_facts.facts_of,
        vit_facts.facts_asked,
        vit_facts.leaf_shapes,
        vit_facts.settle_positions,
        vit_facts.decided,
        vit.STRANGERS,
    ),
    'swin': WeightsFamily(
        'Swin',
        swin.FORMATS,
        swin_facts.facts_of,
        swin_facts.facts_asked,
        swin_facts.leaf_shapes,
        swin_facts.settle_positions,
        swin_facts.decided,
        swin.STRANGERS,
    ),
    'resnet': WeightsFamily(
        'ResNet',
        resnet.FORMATS,
        resnet_facts.facts_of,
        resnet_facts.facts_asked,
        resnet_facts.leaf_shapes,
        resnet_facts.settle_positions,
        resnet_facts.decided,
        resnet.STRANGERS,
    ),
}
# All formats that there are, by name, for help texts.
FORMATS = tuple(dict.fromkeys(name for family in FAMILIES.values() for name in family.formats))
