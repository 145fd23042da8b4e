"""The Vision Transformers: what the benchmarks beside PyTorch can time."""

from collections.abc import Mapping

from jax_prompt.backbones.architectures import ARCHITECTURES
from jax_prompt.backbones.vit_config import ViTConfig

VITS: Mapping[str, ViTConfig] = {
    name: config for name, config in ARCHITECTURES.items() if isinstance(config, ViTConfig)
}
