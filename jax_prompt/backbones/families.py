"""The families of backbones: the one place that knows which code runs which configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from jax_prompt.backbones import convnext, resnet, stack, swin, vit
from jax_prompt.backbones.architectures import Config
from jax_prompt.core.tree import Tree, flatten, segment_span


@dataclass(frozen=True)
class Family:
    """What the model and the engine need of a family, besides its configuration.

    Attributes:
      make: makes the module from a configuration and the seams between its stacked layers.
      adapt: turns a checkpoint's per-layer tree into the running form: (tree, configuration, seams,
        what puts its leaves in place) -> tree.
    """

    make: Callable[[Any, tuple[int, ...]], stack.Stacked]
    adapt: Callable[..., Tree] = stack.adapt


FAMILIES: Mapping[str, Family] = {
    'vit': Family(vit.ViT, vit.adapt),
    'swin': Family(swin.Swin, swin.adapt),
    'resnet': Family(resnet.ResNet),
    'convnext': Family(convnext.ConvNeXt),
}


def family_of(config: Config) -> Family:
    """Returns the family that runs a configuration."""
    return FAMILIES[config.family]


@cache
def leaf_shapes(config: Config) -> Mapping[str, tuple[int, ...]]:
    """Returns {path: shape} of a network's leaves, each layer's apart (`block_00/...`).

    The network's own init says it, traced without computing anything. Do not change the result.
    """
    network, size = family_of(config).make(config, ()).clone(traced=True), config.image_size
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    tree = jax.eval_shape(lambda x: network.init(jax.random.key(0), x), images)['params']
    shapes = {}
    for path, leaf in flatten(tree).items():
        group, _, rest = path.partition('/')
        span = segment_span(group)
        if span is None:
            shapes[path] = leaf.shape
        else:
            shapes |= {f'block_{i:02d}/{rest}': leaf.shape for i in range(*span)}
    return shapes
