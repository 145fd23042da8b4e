"""How the sources of ResNet weights name them, and what they say of the network.

| format      | files |
|-------------|-------|
| torchvision | torchvision's and timm's, which share all names; DINO's; MoCo's; SwAV's; |
|             | SimSiam's, Barlow Twins', VICReg's and solo-learn's encoders |
| hf          | Hugging Face ResNetModel, ResNetForImageClassification |
| jax_prompt  | files that this package wrote |
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_prompt.backbones.resnet_config import ResNetConfig
from jax_prompt.weights.family import Hub, WeightsFamily
from jax_prompt.weights.rules import Matched, layer_of
from jax_prompt.weights.tables import NameRule, NameTable, Reading, Refusal, conv_kernel, own_table
from jax_prompt.weights.torch_layers import norm

_LAYER = 'block_{layer}'


def _conv(pattern: str, path: str) -> NameRule:
    return NameRule(rf'{pattern}\.weight', f'{path}/kernel', conv_kernel)


def _batch_norm(pattern: str, path: str) -> tuple[NameRule, ...]:
    return (
        *norm(pattern, path),
        NameRule(rf'{pattern}\.running_mean', f'{path}/mean'),
        NameRule(rf'{pattern}\.running_var', f'{path}/var'),
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


def _hf_layer(place: int) -> tuple[NameRule, ...]:
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
    r'(module\.)?(momentum_|encoder_k\.).*': 'momentum encoder, used in pretraining only',
    r'(module\.)?(projection_head|prototypes|projector|predictor|neck)(\d*\..*)?': (
        'used in pretraining only'
    ),
    r'(module\.)?bn\..*': 'norm of the projections, used in pretraining only',
    r'(module\.)?(online_classifier|.*queue(_ptr)?)(\..*)?': 'used in pretraining only',
}
# The first that fits is named, so networks with more signs come first.
_REFUSALS = (
    Refusal('a ResNet of CLIP', (r'(visual\.)?(attnpool\..*|conv[23]\.weight)',)),
    Refusal('a ResNeSt', (r'.*\.conv2\.bn0\..*',)),
    Refusal('an SK-ResNet', (r'.*\.conv2\.paths\..*',)),
    Refusal('a Res2Net', (r'.*\.convs\.\d+\..*',)),
    Refusal('an ECA-ResNet, whose blocks weigh their channels', (r'.*\.se\.conv\.weight',)),
    Refusal(
        'a ResNet-RS, with a deep stem and squeeze-and-excitation in its blocks',
        (r'.*\.se\.fc1\.weight', r'(.*\.)?conv1\.0\.weight'),
    ),
    Refusal(
        'a ResNet with further layers in its blocks (squeeze-and-excitation)', (r'.*\.se\..*',)
    ),
    Refusal('a ResNet with further layers in its blocks', (r'.*\.(se|aa)\..*',)),
    Refusal(
        'a ResNet-D, with a deep stem and averages in its shortcuts',
        (r'(.*\.)?conv1\.0\.weight', r'.*\.downsample\.2\..*'),
    ),
    Refusal('a ResNet-D, which averages in its shortcuts', (r'.*\.downsample\.2\..*',)),
    Refusal('a ResNet with a deep stem (of three convolutions)', (r'(.*\.)?conv1\.0\.weight',)),
)
# What lacks even the first layer of every format.
STRANGERS = (
    Refusal('a ResNet of CLIP', (r'(.*\.)?attnpool\..*',)),
    Refusal(
        'a ResNet of CLIP, as timm has it',
        (r'stem\.conv1\.conv\.weight', r'head\.pos_embed'),
    ),
    *_REFUSALS,
    Refusal('a ResNet V2 (BiT)', (r'stem\.conv\.weight', r'stages\.0\.blocks\.0\.norm1\..*')),
    Refusal('a ResNet V2 (BiT)', (r'(.*/)?root_block/.*',)),
    Refusal('a Swin or a ViT', (r'(.*\.)?patch_embed.*',)),
    Refusal('a network of another kind', (r'(stem|conv_stem|features)\..*',)),
)
_PREFIXES = (
    '',
    'module.base_encoder.',
    'module.encoder_q.',
    'module.backbone.',
    'module.encoder.',
    'module.',
    'backbone.',
    'encoder.',
    'model.',
)
_TABLES = (
    own_table('stem_conv/kernel', Reading('the micro ResNet', imagenet=False), Reading('others')),
    NameTable(
        'hf',
        'embedder.embedder.convolution.weight',
        ('', 'resnet.'),
        _HF,
        _SKIPS,
        _REFUSALS,
        family='ResNet',
    ),
    NameTable(
        'torchvision',
        'conv1.weight',
        _PREFIXES,
        _TORCHVISION,
        _SKIPS,
        _REFUSALS,
        family='ResNet',
    ),
)
FORMATS: Mapping[str, NameTable] = {table.name: table for table in _TABLES}


@dataclass(frozen=True)
class Facts:
    """What names and shapes say of the network. Image size and strides leave no trace in them."""

    block: str
    depths: tuple[int, ...]
    width: int
    middle: int
    groups: int
    stem: int

    def __str__(self) -> str:
        return (
            f'{self.block} blocks, depths {self.depths}, stem {self.stem}x{self.stem} of width '
            f'{self.width}, first 3x3 of width {self.middle} in {self.groups} group(s)'
        )


def _facts_of(matched: Matched, tensors: Mapping[str, np.ndarray]) -> Facts | None:
    """Returns what a file says of its network, None where it lacks the names that say it."""
    shapes = matched.shapes(tensors)
    block = 'bottleneck' if 'block_00/conv3/kernel' in shapes else 'basic'
    last = '/conv3/kernel' if block == 'bottleneck' else '/conv2/kernel'
    found = {layer_of(p): s for p, s in shapes.items() if p.endswith(last) and len(s) == 4}
    outputs = {layer: s[-1] for layer, s in found.items() if layer is not None}
    stem, second = (shapes.get(f'{p}/kernel', ()) for p in ('stem_conv', 'block_00/conv2'))
    if len(stem) != 4 or len(second) != 4 or not second[2] or not outputs:
        return None
    widths = [outputs[layer] for layer in sorted(outputs)]
    inputs = second[3] if block == 'bottleneck' else stem[3]
    return Facts(
        block=block,
        depths=tuple(len(list(group)) for _, group in itertools.groupby(widths)),
        width=stem[3],
        middle=second[3],
        groups=inputs // second[2],
        stem=stem[0],
    )


def _facts_asked(config: ResNetConfig) -> Facts:
    """Returns the same facts of a configuration."""
    width = config.width
    return Facts(config.block, config.depths, width, width, 1, config.stem_kernel)


def _settled(flat: dict[str, Any], config: ResNetConfig, source: str) -> int:
    """Returns 0: a ResNet has no positions.

    Raises:
      ValueError: a running variance that is none.
    """
    del config
    for path, leaf in flat.items():
        if path.endswith('/var') and not np.all(leaf >= 0.0):
            raise ValueError(
                f'{source}: {path} has negative or undefined running variances; the file is '
                'damaged, download it again'
            )
    return 0


FAMILY = WeightsFamily(
    'ResNet',
    FORMATS,
    _facts_of,
    _facts_asked,
    Hub(lambda config: {'embedding_size': config.width}, activation='relu'),
    settle=_settled,
    strangers=STRANGERS,
)
