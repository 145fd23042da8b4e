"""The families of backbones: the one place that knows which code runs which configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jax_prompt.backbones import resnet, swin, vit
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
      run_block: runs one frozen block: (config, stacked blocks of its stage, tokens, its index
        among them, index of the first of them) -> tokens; None where there are no tokens.
    """

    make: Callable[[Any, tuple[int, ...]], Backbone]
    adapt: Callable[..., Tree]
    run_block: Callable[..., jax.Array] | None = None


FAMILIES: Mapping[str, Family] = {
    'vit': Family(vit.ViT, vit.adapt, vit.run_block),
    'swin': Family(swin.Swin, swin.adapt, swin.run_block),
    'resnet': Family(resnet.ResNet, resnet.adapt),
}


def family_of(config: Config) -> Family:
    """Returns the family that runs a configuration."""
    return FAMILIES[config.family]
