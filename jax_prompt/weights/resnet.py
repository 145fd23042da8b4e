"""How the sources of ResNet weights name them: tables of rules.

| format      | files |
|-------------|-------|
| torchvision | torchvision's and timm's, which share all names; DINO's; MoCo v2's and v3's |
| hf          | Hugging Face ResNetModel, ResNetForImageClassification |
| jax_prompt  | files that this package wrote |
"""

from collections.abc import Mapping

from jax_prompt.weights.rules import Rule, Table, conv_kernel
from jax_prompt.weights.torch_layers import norm

_LAYER = 'block_{layer}'


def _conv(pattern: str, path: str) -> Rule:
    return Rule(rf'{pattern}\.weight', f'{path}/kernel', conv_kernel)


def _batch_norm(pattern: str, path: str) -> tuple[Rule, ...]:
    return (
        *norm(pattern, path),
        Rule(rf'{pattern}\.running_mean', f'{path}/mean'),
        Rule(rf'{pattern}\.running_var', f'{path}/var'),
    )


_BLOCK = r'layer(?P<stage>\d+)\.(?P<layer>\d+)\.'
_TORCHVISION = (
    _conv('conv1', 'stem_conv'),
    *_batch_norm('bn1', 'stem_norm'),
    _conv(_BLOCK + r'conv(?P<place>\d)', f'{_LAYER}/conv{{place}}'),
    *_batch_norm(_BLOCK + r'bn(?P<place>\d)', f'{_LAYER}/norm{{place}}'),
    _conv(_BLOCK + r'downsample\.0', f'{_LAYER}/down_conv'),
    *_batch_norm(_BLOCK + r'downsample\.1', f'{_LAYER}/down_norm'),
)

_HF_BLOCK = r'encoder\.stages\.(?P<stage>\d+)\.layers\.(?P<layer>\d+)\.'
_STEM = r'embedder\.embedder\.'


def _hf_layer(place: int) -> tuple[Rule, ...]:
    where = rf'{_HF_BLOCK}layer\.{place}\.'
    return (
        _conv(where + 'convolution', f'{_LAYER}/conv{place + 1}'),
        *_batch_norm(where + 'normalization', f'{_LAYER}/norm{place + 1}'),
    )


_HF = (
    _conv(_STEM + 'convolution', 'stem_conv'),
    *_batch_norm(_STEM + 'normalization', 'stem_norm'),
    *(rule for place in range(3) for rule in _hf_layer(place)),
    _conv(_HF_BLOCK + r'shortcut\.convolution', f'{_LAYER}/down_conv'),
    *_batch_norm(_HF_BLOCK + r'shortcut\.normalization', f'{_LAYER}/down_norm'),
)

_SKIPS = {
    r'(module\.)?(fc|head|classifier)(\..*)?': 'classifier or projection head',
    r'(.*\.)?num_batches_tracked': 'count of the batches that running statistics have seen',
    r'module\.(momentum_encoder|encoder_k)\..*': 'momentum encoder, used in pretraining only',
    r'module\.predictor\..*': 'predictor, used in pretraining only',
    r'module\.queue(_ptr)?': 'queue, used in pretraining only',
}
_REFUSALS = {
    r'.*\.downsample\.2\..*': 'a ResNet-D, which averages in its shortcuts',
    r'.*\.(se|aa)\..*': 'a ResNet with further layers in its blocks',
    r'(visual\.)?(attnpool\..*|conv[23]\.weight)': 'a ResNet of CLIP',
}
_PREFIXES = (
    '',
    'module.base_encoder.',
    'module.encoder_q.',
    'module.backbone.',
    'module.',
    'backbone.',
    'encoder.',
    'model.',
)
_TABLES = (
    Table('jax_prompt', 'stem_conv/kernel', ('',), (Rule('(?P<path>.+)', '{path}'),)),
    Table(
        'hf',
        'embedder.embedder.convolution.weight',
        ('', 'resnet.'),
        _HF,
        _SKIPS,
        _REFUSALS,
        family='ResNet',
    ),
    Table(
        'torchvision',
        'conv1.weight',
        _PREFIXES,
        _TORCHVISION,
        _SKIPS,
        _REFUSALS,
        family='ResNet',
    ),
)
FORMATS: Mapping[str, Table] = {table.name: table for table in _TABLES}
