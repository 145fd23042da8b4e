"""Names that programs put around or in the place of the published ones, and networks refused."""

import re
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch_reference
from safetensors.numpy import save_file
from torch_reference import needs_torch, randomise

from jax_prompt.backbones.resnet_config import ResNetConfig
from jax_prompt.backbones.swin_config import SwinConfig
from jax_prompt.core.tree import flatten
from jax_prompt.weights import vit
from jax_prompt.weights.families import FAMILIES
from jax_prompt.weights.load import load_weights
from jax_prompt.weights.readers import Contents
from jax_prompt.weights.rules import match_names
from jax_prompt.weights.wrappers import unwrapped

HF = {
    **{'hidden_size': 32, 'num_hidden_layers': 3, 'num_attention_heads': 2, 'image_size': 32},
    **{'intermediate_size': 128, 'patch_size': 8},
}
SWIN = {'embed_dim': 8, 'depths': [2, 1], 'num_heads': [1, 2], 'image_size': 32, 'window_size': 4}
RESNET = {'embedding_size': 8, 'hidden_sizes': [32, 64], 'depths': [1, 1]}
RESNET_SMALL = ResNetConfig('bottleneck', (1, 1), 32, width=8)


def _hugging_face(kind):
    package = torch_reference.transformers()
    if kind == 'swin':
        return package.SwinModel(package.SwinConfig(patch_size=4, **SWIN))
    if kind == 'resnet':
        return package.ResNetForImageClassification(package.ResNetConfig(**RESNET))
    if kind == 'mae':
        small = {'hidden_size': 16, 'num_attention_heads': 2, 'num_hidden_layers': 1}
        small = {f'decoder_{name}': value for name, value in small.items()}
        return package.ViTMAEForPreTraining(package.ViTMAEConfig(**HF, **small))
    if kind == 'registers':
        config = package.Dinov2WithRegistersConfig(**HF, num_register_tokens=2)
        return package.Dinov2WithRegistersModel(config)
    if kind == 'dinov2':
        return package.Dinov2ForImageClassification(package.Dinov2Config(**HF))
    head = kind == 'vit with head'
    config = package.ViTConfig(**HF)
    return package.ViTForImageClassification(config) if head else package.ViTModel(config)


@needs_torch
@pytest.mark.parametrize(
    'kind', ['vit', 'vit with head', 'mae', 'dinov2', 'registers', 'swin', 'resnet']
)
def test_hugging_face_names_on_disk_and_in_memory(kind, listed, tiny, tmp_path):
    """save_pretrained and torch.save(state_dict()) of one model give one tree."""
    import torch

    model = randomise(_hugging_face(kind))
    model.save_pretrained(tmp_path / 'disk')
    (tmp_path / 'memory').mkdir()
    torch.save(model.state_dict(), tmp_path / 'memory' / 'w.pth')
    config = {
        'swin': SwinConfig(8, (2, 1), (1, 2), 4, 4, 32),
        'resnet': RESNET_SMALL,
        'dinov2': replace(tiny, layer_scale=True),
        'registers': replace(tiny, layer_scale=True, num_registers=2),
    }.get(kind, tiny)
    name = listed(config, format='hf', arch=f'{config.family}_test')
    want, disk = load_weights(tmp_path / 'disk' / 'model.safetensors', name)
    got, memory = load_weights(tmp_path / 'memory' / 'w.pth', name)
    assert memory.identity.format == disk.identity.format == 'hf'
    assert memory.config == disk.config and len(memory.skipped) == len(disk.skipped)
    assert flatten(got).keys() == flatten(want).keys()
    for path, leaf in flatten(got).items():
        np.testing.assert_array_equal(leaf, flatten(want)[path])


@needs_torch
def test_torchvision(listed, tiny, images, features, tmp_path):
    import torch

    torch_reference.torchvision_resnet()
    from torchvision.models import vision_transformer as module

    sizes = {'num_layers': 3, 'num_heads': 2, 'hidden_dim': 32, 'mlp_dim': 128, 'num_classes': 5}
    model = randomise(module.VisionTransformer(image_size=32, patch_size=8, **sizes), scale=0.5)
    torch.save(model.state_dict(), tmp_path / 'w.pth')
    tree, report = load_weights(tmp_path / 'w.pth', listed(tiny))
    assert report.identity.format == 'torchvision'
    assert set(report.skipped) == {'heads.head.weight', 'heads.head.bias'}
    with torch.no_grad():
        model.heads = torch.nn.Identity()
        want = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert want.std() > 0.1
    np.testing.assert_allclose(features(tree, report, images), want, rtol=0, atol=2e-5)


def test_big_vision_scanned():
    """Stacked leaves become those of single blocks, which `google` reads."""
    block = 'params/img/Transformer/encoderblock'
    kernel = np.arange(24.0).reshape(3, 2, 4)
    norm = 'params/img/Transformer/encoder_norm/scale'
    stacked = {f'{block}/MlpBlock_0/Dense_0/kernel': kernel, norm: np.ones(2)}
    plain, notes = unwrapped(Contents(stacked, 'npz'))
    assert 'stacked' in notes[0]
    names = [f'{block}_{i}/MlpBlock_0/Dense_0/kernel' for i in range(3)]
    assert set(plain.tensors) == {norm, *names}
    for i, name in enumerate(names):
        np.testing.assert_array_equal(plain.tensors[name], kernel[i])
    rule = next(r for r in vit.FORMATS['google'].rules if 'Dense_0' in r.pattern)
    assert re.fullmatch(rule.pattern, names[0].removeprefix('params/img/'))
    with pytest.raises(ValueError, match='different numbers of layers'):
        unwrapped(Contents(stacked | {f'{block}/LayerNorm_0/scale': np.ones((2, 2))}, 'npz'))


def _resnet(prefix):
    """A ResNet's names under a prefix."""
    rng = np.random.default_rng(0)
    shapes = {'conv1.weight': (8, 3, 7, 7)}
    norms = {'bn1': 8}
    for stage, (width, inputs) in enumerate(((8, 8), (16, 32)), 1):
        where = f'layer{stage}.0'
        shapes |= {f'{where}.conv1.weight': (width, inputs, 1, 1)}
        shapes |= {f'{where}.conv2.weight': (width, width, 3, 3)}
        shapes |= {f'{where}.conv3.weight': (4 * width, width, 1, 1)}
        shapes |= {f'{where}.downsample.0.weight': (4 * width, inputs, 1, 1)}
        norms |= {f'{where}.bn1': width, f'{where}.bn2': width, f'{where}.bn3': 4 * width}
        norms[f'{where}.downsample.1'] = 4 * width
    for name, width in norms.items():
        leaves = ('weight', 'bias', 'running_mean', 'running_var')
        shapes |= {f'{name}.{leaf}': (width,) for leaf in leaves}
    return {prefix + k: rng.uniform(0.5, 1, v).astype(np.float32) for k, v in shapes.items()}


@pytest.mark.parametrize(
    ('prefix', 'beside'),
    {
        'module.': ('module.projection_head.0.weight', 'module.prototypes.weight'),  # SwAV
        'module.encoder.': ('module.encoder.fc.0.weight', 'module.predictor.0.weight'),  # SimSiam
        'module.backbone.': ('module.projector.0.weight', 'module.bn.running_mean'),  # Barlow Twins
        'backbone.': ('momentum_backbone.conv1.weight', 'classifier.weight'),  # solo-learn
        'encoder.': ('projector.0.weight', 'queue', 'prototypes.weight'),  # solo-learn, before
    }.items(),
)
def test_encoders_of_self_supervised_resnets(prefix, beside, listed, tmp_path):
    tensors = _resnet(prefix) | {name: np.zeros(2, np.float32) for name in beside}
    save_file(tensors, tmp_path / 'w.pth')
    name = listed(RESNET_SMALL, format='torchvision', arch='resnet_test')
    _, report = load_weights(tmp_path / 'w.pth', name)
    assert set(report.skipped) == set(beside)


@needs_torch
def test_a_swins_file_with_its_config_and_values_that_repeat(listed, tiny, tmp_path, monkeypatch):
    """The authors' Swin code saves its yacs config beside the weights; nothing of it is run."""
    import torch

    module = types.ModuleType('yacs.config')
    module.CfgNode = type('CfgNode', (dict,), {'__module__': 'yacs.config'})
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    config = module.CfgNode(MODEL=module.CfgNode(TYPE='swin'))
    config.__dict__['__immutable__'] = True
    sizes = {'img_size': 32, 'patch_size': 8, 'embed_dim': 32, 'depth': 3, 'num_heads': 2}
    model = torch_reference.timm_vit().VisionTransformer(num_classes=0, **sizes)
    weights = model.state_dict()
    weights['norm.bias'] = torch.full((1,), 0.5).expand(32)
    torch.save({'model': weights, 'config': config}, tmp_path / 'w.pth')
    tree, report = load_weights(tmp_path / 'w.pth', listed(tiny))
    assert report.left == ('config',)
    np.testing.assert_array_equal(tree['norm']['bias'], np.full(32, 0.5, np.float32))


NAMED = {
    'resnet': {
        **{'resnet50d': 'a ResNet-D', 'resnet26d': 'a ResNet-D', 'resnetrs50': 'a ResNet-RS'},
        **{'ecaresnet50t': 'an ECA-ResNet', 'resnet50_clip': 'a ResNet of CLIP'},
        **{'seresnet50': 'squeeze-and-excitation', 'resnet10t': 'a ResNet-D'},
    },
    'vit': {
        **{'cait_xxs24_224': 'a CaiT', 'eva02_tiny_patch14_224': 'EVA-02'},
        **{'vit_small_patch16_dinov3': 'DINOv3', 'beit_base_patch16_224': 'a BEiT'},
        **{'vit_giant_patch14_dinov2': None, 'vit_base_patch16_siglip_224': 'attention pooling'},
        **{'xcit_nano_12_p16_224': 'an XCiT', 'resnet18': 'a ResNet'},
    },
}
PAIRS = [(f, n, w) for f, models in NAMED.items() for n, w in models.items() if w]


@needs_torch
@pytest.mark.parametrize(('family', 'model', 'what'), PAIRS)
def test_networks_that_are_refused_are_called_what_they_are(family, model, what):
    import torch

    torch_reference.timm_vit()
    import timm

    with torch.device('meta'):
        names = {name: np.zeros(0) for name in timm.create_model(model).state_dict()}
    _refused(family, names, what)


OWN_NAMES = {
    'a ResNet of CLIP': ('resnet', ['visual.conv1.weight', 'visual.attnpool.k_proj.weight']),
    'DeiT-III as its authors': ('vit', ['patch_embed.proj.weight', 'blocks.0.gamma_1']),
    'a DINOv3': ('vit', ['patch_embed.proj.weight', 'storage_tokens', 'rope_embed.periods']),
}


@pytest.mark.parametrize('what', OWN_NAMES)
def test_their_authors_names_too(what):
    family, names = OWN_NAMES[what]
    _refused(family, dict.fromkeys(names, np.zeros(0)), what)


def _refused(family, names, what):
    with pytest.raises(ValueError, match=f'{what}.* not supported'):
        table = FAMILIES[family].detect(names, '', '', 'the file')[0]
        match_names(table, names, 'the file')
