"""What a checkpoint says of its ResNet, and the leaves that a ResNet needs."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_prompt.backbones.resnet_config import ResNetConfig
from jax_prompt.core.spec import Site
from jax_prompt.weights.rules import Matched, layer_of
from jax_prompt.weights.tables import NameTable, Shape


@dataclass(frozen=True)
class Facts:
    """What names and shapes say of the network. Image size and strides leave no trace in them."""

    block: str
    depths: tuple[int, ...]
    width: int
    middle: int
    groups: int
    stem: int

    def __str__(self) -> str:
        return (
            f'{self.block} blocks, depths {self.depths}, stem {self.stem}x{self.stem} of width '
            f'{self.width}, first 3x3 of width {self.middle} in {self.groups} group(s)'
        )


def facts_of(matched: Matched, tensors: Mapping[str, np.ndarray]) -> Facts | None:
    """Returns what a file says of its network, None where it lacks the names that say it."""
    shapes = matched.shapes(tensors)
    block = 'bottleneck' if 'block_00/conv3/kernel' in shapes else 'basic'
    last = '/conv3/kernel' if block == 'bottleneck' else '/conv2/kernel'
    found = {layer_of(p): s for p, s in shapes.items() if p.endswith(last) and len(s) == 4}
    outputs = {layer: s[-1] for layer, s in found.items() if layer is not None}
    stem, second = (shapes.get(f'{p}/kernel', ()) for p in ('stem_conv', 'block_00/conv2'))
    if len(stem) != 4 or len(second) != 4 or not second[2] or not outputs:
        return None
    widths = [outputs[layer] for layer in sorted(outputs)]
    inputs = second[3] if block == 'bottleneck' else stem[3]
    return Facts(
        block=block,
        depths=tuple(len(list(group)) for _, group in itertools.groupby(widths)),
        width=stem[3],
        middle=second[3],
        groups=inputs // second[2],
        stem=stem[0],
    )


def facts_asked(config: ResNetConfig) -> Facts:
    """Returns the same facts of a configuration."""
    width = config.width
    return Facts(config.block, config.depths, width, width, 1, config.stem_kernel)


def leaf_shapes(config: ResNetConfig) -> dict[str, Shape]:
    """Returns {path: shape} of the leaves of a configuration."""
    shapes = _leaves(config.spec().outer)
    for layer in range(config.depth):
        own = _leaves(config.sites_of(layer))
        shapes |= {f'block_{layer:02d}/{path}': shape for path, shape in own.items()}
    return shapes


def _leaves(sites: Mapping[str, Site]) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for name, site in sites.items():
        if site.weights and 'conv' in name:
            shape = (site.kernel, site.kernel, site.inputs, site.outputs)
            shapes[f'{site.weights}/kernel'] = shape
        elif site.weights:
            leaves = ('scale', 'bias', 'mean', 'var')
            shapes |= {f'{site.weights}/{leaf}': (site.outputs,) for leaf in leaves}
    return shapes


def settle_positions(flat: dict[str, Any], config: ResNetConfig, source: str) -> int:
    """Returns 0: a ResNet has no positions.

    Raises:
      ValueError: a running variance that is none.
    """
    del config
    for path, leaf in flat.items():
        if path.endswith('/var') and not np.all(leaf >= 0.0):
            raise ValueError(
                f'{source}: {path} has negative or undefined running variances; the file is '
                'damaged, download it again'
            )
    return 0


def decided(table: NameTable, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns what format and names decide of the network beyond shapes: nothing here."""
    del table, tensors
    return {}
