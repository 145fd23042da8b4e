"""How the sources of Swin weights name them, what they say of the network, its position biases.

| format      | files |
|-------------|-------|
| microsoft   | the authors' `.pth`, SimMIM's, and timm's up to 0.8: merging ends a stage |
| timm        | timm from 0.9 on: merging begins a stage |
| hf          | Hugging Face SwinModel, SwinForImageClassification, SwinForMaskedImageModeling, |
|             | under the names of their files and under those that transformers 5 has in memory |
| torchvision | torchvision's swin_t, swin_s, swin_b (the first version) |
| jax_prompt  | files that this package wrote |
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_prompt.backbones.swin_config import SwinConfig
from jax_prompt.weights.family import Hub, WeightsFamily
from jax_prompt.weights.rules import Matched, layer_of
from jax_prompt.weights.tables import NameRule, NameTable, Reading, Refusal, own_table
from jax_prompt.weights.torch_layers import linear, norm, patch_conv

_LAYER = 'block_{layer}'


def _merge(pattern: str, path: str) -> tuple[NameRule, ...]:
    reduction = linear(pattern + r'\.reduction', f'{path}/reduction')[:1]  # without a bias
    return (*norm(pattern + r'\.norm', f'{path}/norm'), *reduction)


def _rules(block: str, fc1: str, fc2: str, merge: tuple[NameRule, ...]) -> tuple[NameRule, ...]:
    """The blocks of the official code, as timm and torchvision have them too."""
    return (
        *norm(block + 'norm1', f'{_LAYER}/ln1'),
        *linear(block + r'attn\.qkv', f'{_LAYER}/attn/qkv'),
        *linear(block + r'attn\.proj', f'{_LAYER}/attn/proj'),
        NameRule(block + r'attn\.relative_position_bias_table', f'{_LAYER}/attn/relative_bias'),
        *norm(block + 'norm2', f'{_LAYER}/ln2'),
        *linear(block + fc1, f'{_LAYER}/mlp/fc1'),
        *linear(block + fc2, f'{_LAYER}/mlp/fc2'),
        *merge,
        *norm('norm', 'norm'),
    )


_STAGE = r'layers\.(?P<stage>\d+)\.'
_EMBED = (*patch_conv(r'patch_embed\.proj'), *norm(r'patch_embed\.norm', 'patch_norm'))
_NAMES = (_STAGE + r'blocks\.(?P<layer>\d+)\.', r'mlp\.fc1', r'mlp\.fc2')
_MICROSOFT = (*_EMBED, *_rules(*_NAMES, _merge(_STAGE + 'downsample', 'merge_{stop}')))
_TIMM = (*_EMBED, *_rules(*_NAMES, _merge(_STAGE + 'downsample', 'merge_{start}')))

# Stages and mergings take turns: features.1 is the first stage, features.2 what follows it.
_FEATURE = r'features\.(?P<stage>\d+)\.'
_TORCHVISION = (
    *patch_conv(r'features\.0\.0'),
    *norm(r'features\.0\.2', 'patch_norm'),
    *_rules(
        _FEATURE + r'(?P<layer>\d+)\.',
        r'mlp\.0',
        r'mlp\.3',
        _merge(r'features\.(?P<stage>\d+)', 'merge_{start}'),
    ),
)

_HF_STAGE = r'encoder\.layers\.(?P<stage>\d+)\.'
_HF = _HF_STAGE + r'blocks\.(?P<layer>\d+)\.'
_HF_BIAS = _HF + r'attention\.(?:self|relative_position_bias)\.'
_HF_RULES = (
    *patch_conv(r'embeddings\.patch_embeddings\.projection'),
    *norm(r'embeddings\.norm', 'patch_norm'),
    *norm(_HF + 'layernorm_before', f'{_LAYER}/ln1'),
    *linear(_HF + r'attention\.(?:self\.query|q_proj)', f'{_LAYER}/attn/qkv', (0, 3)),
    *linear(_HF + r'attention\.(?:self\.key|k_proj)', f'{_LAYER}/attn/qkv', (1, 3)),
    *linear(_HF + r'attention\.(?:self\.value|v_proj)', f'{_LAYER}/attn/qkv', (2, 3)),
    NameRule(_HF_BIAS + 'relative_position_bias_table', f'{_LAYER}/attn/relative_bias'),
    *linear(_HF + r'attention\.(?:output\.dense|o_proj)', f'{_LAYER}/attn/proj'),
    *norm(_HF + 'layernorm_after', f'{_LAYER}/ln2'),
    *linear(_HF + r'(?:intermediate\.dense|mlp\.fc1)', f'{_LAYER}/mlp/fc1'),
    *linear(_HF + r'(?:output\.dense|mlp\.fc2)', f'{_LAYER}/mlp/fc2'),
    *_merge(_HF_STAGE + 'downsample', 'merge_{stop}'),
    *norm('layernorm', 'norm'),
)

_SKIPS = {
    r'(head|classifier)(\..*)?': 'classifier head',
    r'.*\.relative_position_index': 'indices that follow from the window',
    r'.*\.attn_mask': 'a mask that follows from window and image size',
    r'(embeddings\.)?mask_token': 'token for masked patches, used in pretraining only',
    r'decoder\..*': 'decoder, used in pretraining only',
}
_REFUSALS = (
    Refusal('a Swin V2', (r'.*\b(logit_scale|cpb_mlp|continuous_position_bias_mlp|q_bias)\b.*',)),
    Refusal(
        'a Swin with absolute positions',
        (r'absolute_pos_embed|embeddings\.position_embeddings',),
    ),
    Refusal('a ViT', (r'cls_token|pos_embed|blocks\.\d+\..*',)),
)
# What lacks even the first layer of every format.
STRANGERS = (
    *_REFUSALS,
    Refusal('a ResNet', (r'(.*\.)?layer1\.0\.conv1\.weight',)),
    Refusal('a ViT', (r'(.*\.)?(cls_token|class_token|embedding/kernel)',)),
)


def _table(name: str, anchor: str, prefixes: tuple[str, ...], rules, **more) -> NameTable:
    return NameTable(name, anchor, prefixes, rules, _SKIPS, _REFUSALS, family='Swin', **more)


_ANCHOR, _PREFIXES = (
    'patch_embed.proj.weight',
    (*('', 'module.', 'encoder.', 'backbone.', 'model.', 'module.backbone.', 'module.encoder.'),),
)
_FIRST = r'(?:.*\.)?layers\.0\.downsample\..*'
_TABLES = (
    own_table('patch_embed/kernel', Reading('the micro Swin', imagenet=False), Reading('others')),
    _table('torchvision', 'features.0.0.weight', ('', 'module.'), _TORCHVISION),
    _table('hf', 'embeddings.patch_embeddings.projection.weight', ('', 'swin.'), _HF_RULES),
    _table('microsoft', _ANCHOR, _PREFIXES, _MICROSOFT, signs=((_FIRST,),)),
    _table(
        'timm',
        _ANCHOR,
        _PREFIXES,
        _TIMM,
        signs=((r'(?:.*\.)?layers\.1\.downsample\..*',),),
        absent=(_FIRST,),
    ),
)
FORMATS: Mapping[str, NameTable] = {table.name: table for table in _TABLES}


@dataclass(frozen=True)
class Facts:
    """What names and shapes say of the network. The image size leaves no trace in them."""

    width: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    patch_size: int
    mlp_dim: int

    def __str__(self) -> str:
        return (
            f'width {self.width}, depths {self.depths}, heads {self.num_heads}, '
            f'patch {self.patch_size}'
        )


def _facts_of(matched: Matched, tensors: Mapping[str, np.ndarray]) -> Facts | None:
    """Returns what a file says of its network, None where it lacks the names that say it."""
    shapes = matched.shapes(tensors)
    patch = shapes.get('patch_embed/kernel', ())
    fc1 = shapes.get('block_00/mlp/fc1/bias', ())
    found = {layer_of(p): s for p, s in shapes.items() if p.endswith('/attn/relative_bias')}
    biases = {layer: s for layer, s in found.items() if layer is not None}
    if len(patch) != 4 or len(fc1) != 1 or not biases or any(len(s) != 2 for s in biases.values()):
        return None
    norms = [shapes.get(f'block_{layer:02d}/ln1/scale', (0,)) for layer in sorted(biases)]
    pairs = [(*norm, biases[layer][1]) for norm, layer in zip(norms, sorted(biases), strict=True)]
    stages = [(key, len(list(group))) for key, group in itertools.groupby(pairs)]
    return Facts(
        width=patch[3],
        depths=tuple(count for _, count in stages),
        num_heads=tuple(key[-1] for key, _ in stages),
        patch_size=patch[0],
        mlp_dim=fc1[0],
    )


def _facts_asked(config: SwinConfig) -> Facts:
    """Returns the same facts of a configuration."""
    return Facts(
        config.width, config.depths, config.num_heads, config.patch_size, config.mlp_dim_of(0)
    )


def _settled(flat: dict[str, Any], config: SwinConfig, source: str) -> int:
    """Checks the tables of position biases, which keep the file's own windows.

    Args:
      flat: {path: array}.
      config: the configuration.
      source: the file, for the error.

    Returns:
      Patches along one side of the file's windows, in its first stage.

    Raises:
      ValueError: a table is of no square window.
    """
    windows = []
    for layer in range(config.depth):
        rows = flat[f'block_{layer:02d}/attn/relative_bias'].shape[0]
        side = math.isqrt(rows)
        if side * side != rows or side % 2 == 0:
            raise ValueError(
                f'{source}: block {layer} has {rows} relative position biases, which are of no '
                'square window: (2w - 1)^2 are supported'
            )
        windows.append((side + 1) // 2)
    return windows[0]


def _same(config: SwinConfig) -> Mapping[str, Any]:
    return {'hidden_size': config.feature_dim, 'patch_size': config.patch_size}


FAMILY = WeightsFamily(
    'Swin',
    FORMATS,
    _facts_of,
    _facts_asked,
    Hub(_same, {'layer_norm_eps': 'norm_epsilon'}),
    any_size={'relative_bias': 0},
    settle=_settled,
    strangers=STRANGERS,
)
