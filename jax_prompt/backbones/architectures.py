"""The networks by name, each with its family's configuration."""

from collections.abc import Mapping
from typing import Any

from jax_prompt.backbones.convnext_config import ConvNeXtConfig
from jax_prompt.backbones.resnet_config import ResNetConfig
from jax_prompt.backbones.swin_config import SwinConfig
from jax_prompt.backbones.vit_config import ViTConfig

Config = ViTConfig | SwinConfig | ResNetConfig | ConvNeXtConfig


def _vit(width: int, depth: int, heads: int, patch: int, size: int, **more: Any) -> ViTConfig:
    return ViTConfig(width, depth, heads, 4 * width, patch, size, **more)


def _dinov2(width: int, depth: int, heads: int, registers: int = 0) -> ViTConfig:
    return _vit(width, depth, heads, 14, 518, layer_scale=True, num_registers=registers)


def _swin(width: int, depths: tuple[int, ...], first: int, window: int, size: int) -> SwinConfig:
    heads = tuple(first * 2**stage for stage in range(len(depths)))
    return SwinConfig(width, depths, heads, window, 4, size)


ARCHITECTURES: Mapping[str, Config] = {
    'vit_micro': ViTConfig(128, 6, 2, 512, 4, 32),
    # The same network with the pooling of MAE's fine-tuning, as the 'mae' tags of the table.
    'mae_micro': ViTConfig(128, 6, 2, 512, 4, 32, pool='mean', norm_after_pool=True),
    'swin_micro': SwinConfig(48, (2, 2, 2), (2, 4, 8), window=4, patch_size=2, image_size=32),
    'resnet_micro': ResNetConfig('basic', (1, 1, 1, 1), 32, width=32, stem='small'),
    'vit_ti16_224': _vit(192, 12, 3, 16, 224),
    'vit_s16_224': _vit(384, 12, 6, 16, 224),
    'vit_s32_224': _vit(384, 12, 6, 32, 224),
    'vit_b32_224': _vit(768, 12, 12, 32, 224),
    'vit_b16_224': _vit(768, 12, 12, 16, 224),
    'vit_b16_384': _vit(768, 12, 12, 16, 384),
    'vit_l32_224': _vit(1024, 24, 16, 32, 224),
    'vit_l16_224': _vit(1024, 24, 16, 16, 224),
    'vit_h14_224': _vit(1280, 32, 16, 14, 224),
    'vit_s14_dinov2': _dinov2(384, 12, 6),
    'vit_b14_dinov2': _dinov2(768, 12, 12),
    'vit_l14_dinov2': _dinov2(1024, 24, 16),
    'vit_s14_reg4_dinov2': _dinov2(384, 12, 6, registers=4),
    'vit_b14_reg4_dinov2': _dinov2(768, 12, 12, registers=4),
    'vit_l14_reg4_dinov2': _dinov2(1024, 24, 16, registers=4),
    'swin_t_224': _swin(96, (2, 2, 6, 2), 3, 7, 224),
    'swin_s_224': _swin(96, (2, 2, 18, 2), 3, 7, 224),
    'swin_b_224': _swin(128, (2, 2, 18, 2), 4, 7, 224),
    'swin_l_224': _swin(192, (2, 2, 18, 2), 6, 7, 224),
    'swin_b_384': _swin(128, (2, 2, 18, 2), 4, 12, 384),
    'swin_l_384': _swin(192, (2, 2, 18, 2), 6, 12, 384),
    'resnet18': ResNetConfig('basic', (2, 2, 2, 2), 224),
    'resnet34': ResNetConfig('basic', (3, 4, 6, 3), 224),
    'resnet50': ResNetConfig('bottleneck', (3, 4, 6, 3), 224),
    'resnet101': ResNetConfig('bottleneck', (3, 4, 23, 3), 224),
    'resnet152': ResNetConfig('bottleneck', (3, 8, 36, 3), 224),
    'convnext_t_224': ConvNeXtConfig(96, (3, 3, 9, 3), 224),
    'convnext_s_224': ConvNeXtConfig(96, (3, 3, 27, 3), 224),
    'convnext_b_224': ConvNeXtConfig(128, (3, 3, 27, 3), 224),
}
