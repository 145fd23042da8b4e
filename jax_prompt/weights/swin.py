"""How the sources of Swin weights name them: tables of rules.

| format      | files |
|-------------|-------|
| microsoft   | the authors' `.pth`, SimMIM's, and timm's up to 0.8: merging ends a stage |
| timm        | timm from 0.9 on: merging begins a stage |
| hf          | Hugging Face SwinModel, SwinForImageClassification, SwinForMaskedImageModeling, |
|             | under the names of their files and under those that transformers 5 has in memory |
| torchvision | torchvision's swin_t, swin_s, swin_b (the first version) |
| jax_prompt  | files that this package wrote |
"""

from collections.abc import Mapping

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
