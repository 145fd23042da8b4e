"""How the sources of ConvNeXt weights name them, and what they say of the network.

| format      | files |
|-------------|-------|
| facebook    | the authors' `.pth` |
| timm        | timm's convnext_tiny, convnext_small, convnext_base |
| hf          | Hugging Face ConvNextModel, ConvNextForImageClassification |
| torchvision | torchvision's convnext_tiny, convnext_small, convnext_base |
| jax_prompt  | files that this package wrote |
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_prompt.backbones.convnext_config import KERNEL, ConvNeXtConfig
from jax_prompt.weights.family import Hub, WeightsFamily
from jax_prompt.weights.rules import Matched, layer_of
from jax_prompt.weights.tables import NameRule, NameTable, Refusal, flat, own_table
from jax_prompt.weights.torch_layers import conv, linear, norm, patch_conv

_LAYER, _DOWN = 'block_{layer}', 'down_{start}'


def _rules(
    stem: tuple[str, str],
    block: str,
    names: tuple[str, str, str, str, str],
    down: tuple[str, str],
    last: str,
) -> tuple[NameRule, ...]:
    """The leaves of a source.

    Args:
      stem: patterns of the stem's convolution and norm.
      block: pattern before the names in a block.
      names: of its convolution, norm, two products and scale.
      down: patterns of the norm and the convolution before a stage.
      last: pattern of the last norm.
    """
    dwconv, own_norm, fc1, fc2, scale = names
    return (
        *patch_conv(stem[0]),
        *norm(stem[1], 'patch_norm'),
        *conv(block + dwconv, f'{_LAYER}/dwconv'),
        *norm(block + own_norm, f'{_LAYER}/ln1'),
        *linear(block + fc1, f'{_LAYER}/mlp/fc1'),
        *linear(block + fc2, f'{_LAYER}/mlp/fc2'),
        NameRule(block + scale, f'{_LAYER}/ls1/scale', flat),
        *norm(down[0], f'{_DOWN}/norm'),
        *conv(down[1], f'{_DOWN}/conv'),
        *norm(last, 'norm'),
    )


_STAGE, _IN_STAGE = r'stages\.(?P<stage>\d+)\.', r'(?P<layer>\d+)\.'
_FACEBOOK = _rules(
    (r'downsample_layers\.0\.0', r'downsample_layers\.0\.1'),
    _STAGE + _IN_STAGE,
    ('dwconv', 'norm', 'pwconv1', 'pwconv2', 'gamma'),
    (
        r'downsample_layers\.(?P<stage>[1-9])\.0',
        r'downsample_layers\.(?P<stage>[1-9])\.1',
    ),
    'norm',
)
_TIMM = _rules(
    (r'stem\.0', r'stem\.1'),
    _STAGE + r'blocks\.' + _IN_STAGE,
    ('conv_dw', 'norm', r'mlp\.fc1', r'mlp\.fc2', 'gamma'),
    (_STAGE + r'downsample\.0', _STAGE + r'downsample\.1'),
    r'head\.norm',
)
_HF_STAGE = r'encoder\.' + _STAGE
_HF = _rules(
    (r'embeddings\.patch_embeddings', r'embeddings\.layernorm'),
    _HF_STAGE + r'layers\.' + _IN_STAGE,
    ('dwconv', 'layernorm', 'pwconv1', 'pwconv2', 'layer_scale_parameter'),
    (_HF_STAGE + r'downsampling_layer\.0', _HF_STAGE + r'downsampling_layer\.1'),
    'layernorm',
)
# Stages and what stands between them take turns: features.1 is the first stage.
_FEATURE = r'features\.(?P<stage>[1-9])\.'
_TORCHVISION = _rules(
    (r'features\.0\.0', r'features\.0\.1'),
    _FEATURE + _IN_STAGE,
    (r'block\.0', r'block\.2', r'block\.3', r'block\.5', 'layer_scale'),
    (_FEATURE + '0', _FEATURE + '1'),
    r'classifier\.0',
)

_SKIPS = {
    r'(module\.)?head(\.fc)?\.(weight|bias)': 'classifier head',
    r'classifier(\.2)?\.(weight|bias)': 'classifier head',
}
# The first that fits is named, so networks with more signs come first.
_REFUSALS = (
    Refusal('a ConvNeXt V2', (r'.*\.grn\..*',)),
    Refusal('a ConvNeXt that normalises before it pools', (r'(.*\.)?norm_pre\..*',)),
    Refusal('a ConvNeXt with a head of two layers', (r'(.*\.)?head\.pre_logits\..*',)),
    Refusal('a ConvNeXt whose stem overlaps', (r'(.*\.)?stem\.[2-9]\..*',)),
)
STRANGERS = (
    *_REFUSALS,
    Refusal('a ResNet', (r'(.*\.)?layer1\.0\.conv1\.weight',)),
    Refusal('a Swin or a ViT', (r'(.*\.)?(patch_embed\.proj|cls_token).*',)),
)


def _table(name: str, anchor: str, prefixes: tuple[str, ...], rules, **more) -> NameTable:
    return NameTable(name, anchor, prefixes, rules, _SKIPS, _REFUSALS, family='ConvNeXt', **more)


_PREFIXES = ('', 'module.', 'backbone.', 'model.', 'encoder.')
_TABLES = (
    own_table('patch_embed/kernel'),
    _table('torchvision', 'features.1.0.block.0.weight', ('', 'module.'), _TORCHVISION),
    _table('hf', 'embeddings.patch_embeddings.weight', ('', 'convnext.'), _HF),
    _table('timm', 'stem.0.weight', _PREFIXES, _TIMM),
    _table('facebook', 'downsample_layers.0.0.weight', _PREFIXES, _FACEBOOK),
)
FORMATS: Mapping[str, NameTable] = {table.name: table for table in _TABLES}


@dataclass(frozen=True)
class Facts:
    """What names and shapes say of the network. The image size leaves no trace in them."""

    width: int
    depths: tuple[int, ...]
    patch_size: int
    kernel: int

    def __str__(self) -> str:
        return (
            f'width {self.width}, depths {self.depths}, patch {self.patch_size}, '
            f'kernels {self.kernel}x{self.kernel}'
        )


def _facts_of(matched: Matched, tensors: Mapping[str, np.ndarray]) -> Facts | None:
    """Returns what a file says of its network, None where it lacks the names that say it."""
    shapes = matched.shapes(tensors)
    patch = shapes.get('patch_embed/kernel', ())
    found = {layer_of(p): s for p, s in shapes.items() if p.endswith('/dwconv/kernel')}
    kernels = {layer: s for layer, s in found.items() if layer is not None and len(s) == 4}
    if len(patch) != 4 or not kernels:
        return None
    widths = [kernels[layer][-1] for layer in sorted(kernels)]
    return Facts(
        width=patch[3],
        depths=tuple(len(list(group)) for _, group in itertools.groupby(widths)),
        patch_size=patch[0],
        kernel=kernels[min(kernels)][0],
    )


def _facts_asked(config: ConvNeXtConfig) -> Facts:
    """Returns the same facts of a configuration."""
    return Facts(config.width, config.depths, config.patch_size, KERNEL)


def _decided(table: NameTable, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns what the format decides beyond shapes: transformers' epsilon of the last norm."""
    del tensors
    return {'pool_epsilon': 1e-12} if table.name == 'hf' else {}


def _same(config: ConvNeXtConfig) -> Mapping[str, Any]:
    widths = [config.width_of(stage) for stage in range(len(config.depths))]
    return {'hidden_sizes': widths, 'depths': list(config.depths), 'patch_size': config.patch_size}


FAMILY = WeightsFamily(
    'ConvNeXt',
    FORMATS,
    _facts_of,
    _facts_asked,
    Hub(_same, {'layer_norm_eps': 'pool_epsilon'}),
    decided=_decided,
    strangers=STRANGERS,
)
