"""The families of backbones: the one place that knows which code runs which configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jax_prompt.backbones import resnet, stack, swin, vit
from jax_prompt.backbones.architectures import Config
from jax_prompt.core.backbone import Backbone
from jax_prompt.core.tree import Tree


@dataclass(frozen=True)
class Family:
    """What the model and the engine need of a family, besides its configuration.

    Attributes:
      make: makes the module from a configuration and the seams between its stacked layers.
      adapt: turns a checkpoint's per-layer tree into the running form: (tree, configuration, seams,
        what puts its leaves in place) -> tree.
    """

    make: Callable[[Any, tuple[int, ...]], Backbone]
    adapt: Callable[..., Tree] = stack.adapt


FAMILIES: Mapping[str, Family] = {
    'vit': Family(vit.ViT, vit.adapt),
    'swin': Family(swin.Swin, swin.adapt),
    'resnet': Family(resnet.ResNet),
}


def family_of(config: Config) -> Family:
    """Returns the family that runs a configuration."""
    return FAMILIES[config.family]
