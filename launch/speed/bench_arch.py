"""The backbones that the benchmarks beside PyTorch can time, and the methods that fit them."""

from collections.abc import Mapping

from jax_prompt.backbones.architectures import ARCHITECTURES
from jax_prompt.backbones.vit_config import ViTConfig

VITS: Mapping[str, ViTConfig] = {
    name: config for name, config in ARCHITECTURES.items() if isinstance(config, ViTConfig)
}
# The first is the default: prompts as tokens, or where there are none as pixels.
METHODS = {
    'vit': ('vpt_deep', 'lion'),
    'swin': ('vpt_deep', 'lion'),
    'resnet': ('vpt_pad', 'lion'),
}
# Those that have a network in PyTorch beside them.
RIVALLED = {name: config for name, config in ARCHITECTURES.items() if config.family in METHODS}
