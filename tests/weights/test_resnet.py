"""ResNet weights of every source against an independent torch implementation."""

from dataclasses import replace

import numpy as np
import pytest
import torch_reference
from torch_reference import needs_torch, randomise_norms

from jax_prompt.backbones.architectures import ARCHITECTURES
from jax_prompt.backbones.families import family_of
from jax_prompt.backbones.resnet_config import ResNetConfig
from jax_prompt.backbones.table import lookup
from jax_prompt.core.spec import Cut
from jax_prompt.core.tree import count, flatten
from jax_prompt.weights.load import load_weights, save_converted

RESNETS = {name: replace(ARCHITECTURES[name], image_size=64) for name in ('resnet18', 'resnet50')}
SMALL = ResNetConfig('bottleneck', (2, 1), 32, width=8)


@pytest.fixture
def resnet(listed):
    def add(config=SMALL, **entry):
        return listed(config, **{'arch': 'resnet_test', 'format': 'torchvision', **entry})

    return add


def pixels(size=64):
    return np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)


def as_torch(images):
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2)


def seeded(make, *args, **options):
    import torch

    torch.manual_seed(0)
    model = make(*args, **options)
    return randomise_norms(model, torch.randn(8, 3, 64, 64))


def reference(source, name):
    """Returns a torch model, and its features of `pixels`."""
    import torch

    config = RESNETS[name]
    if source == 'torchvision':
        model = seeded(getattr(torch_reference.torchvision_resnet(), name), num_classes=5)
        run = torch.nn.Sequential(*list(model.children())[:-1])
    elif source == 'timm':
        model = seeded(getattr(torch_reference.timm_resnet(), name), num_classes=5)
        run = lambda x: model.forward_head(model.forward_features(x), pre_logits=True)  # noqa: E731
    else:
        package, outputs = torch_reference.transformers(), 4 if config.block == 'bottleneck' else 1
        options = package.ResNetConfig(
            depths=list(config.depths),
            layer_type=config.block,
            hidden_sizes=[64 * 2**i * outputs for i in range(4)],
            num_labels=5,
        )
        make = package.ResNetModel if source == 'hf' else package.ResNetForImageClassification
        model = seeded(make, options)
        base = model if source == 'hf' else model.resnet
        run = lambda x: base(x).pooler_output  # noqa: E731
    with torch.no_grad():
        return model, run(as_torch(pixels())).flatten(1).numpy()


def saved(path, content):
    import torch

    torch.save(content, path)
    return path


@needs_torch
@pytest.mark.parametrize('name', RESNETS)
@pytest.mark.parametrize('source', ['timm', 'torchvision', 'hf', 'hf_head'])
def test_features_equal_those_of_torch(source, name, tmp_path, resnet, features):
    model, want = reference(source, name)
    path = tmp_path / 'model.safetensors'
    if source.startswith('hf'):
        model.save_pretrained(tmp_path)
    else:
        path = saved(tmp_path / 'w.pth', model.state_dict())
    other = 'torchvision' if source.startswith('hf') else 'hf'  # names tell the format
    tree, report = load_weights(path, resnet(RESNETS[name], format=other))
    assert report.identity.format == ('hf' if source.startswith('hf') else 'torchvision')
    assert report.config == RESNETS[name] and report.grid == 0 and 'grid' not in str(report)
    kinds = {skipped.rsplit('.', 1)[-1] for skipped in report.skipped}
    head = set() if source == 'hf' else {'weight', 'bias'}
    assert kinds == head | {'num_batches_tracked'}
    # As many as torch has parameters, but for the head.
    parameters = {n: p.numel() for n, p in model.named_parameters()}
    kept = sum(v for n, v in parameters.items() if not n.startswith(('fc', 'classifier')))
    assert count(tree) == kept
    got = features(tree, report, pixels())
    assert want.std() > 0.1  # a reference without variation proves nothing
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


@needs_torch
def test_feature_maps_between_stages_equal_torchs(tmp_path, resnet):
    import torch

    model, _ = reference('torchvision', 'resnet18')
    config = RESNETS['resnet18']
    path = saved(tmp_path / 'w.pth', {'state_dict': model.state_dict()})
    tree, _ = load_weights(path, resnet(config))
    family = family_of(config)
    params = family.adapt(tree, config, ())
    with torch.no_grad():
        x = model.maxpool(model.relu(model.bn1(model.conv1(as_torch(pixels())))))
        for stage, first in enumerate(config.starts):
            run = family.make(config, ()).apply
            got = run({'params': params}, pixels(), stop=Cut(first))
            want = x.permute(0, 2, 3, 1).numpy()
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
            x = getattr(model, f'layer{stage + 1}')(x)


@pytest.fixture
def tensors():
    """The weights of SMALL under torchvision's names, random."""
    rng = np.random.default_rng(0)
    shapes = {'conv1.weight': (8, 3, 7, 7)}
    norms = {'bn1': 8}
    inputs = 8
    for stage, depth in enumerate(SMALL.depths):
        middle = 8 * 2**stage
        for block in range(depth):
            where = f'layer{stage + 1}.{block}'
            shapes[f'{where}.conv1.weight'] = (middle, inputs, 1, 1)
            shapes[f'{where}.conv2.weight'] = (middle, middle, 3, 3)
            shapes[f'{where}.conv3.weight'] = (4 * middle, middle, 1, 1)
            norms |= {f'{where}.bn1': middle, f'{where}.bn2': middle, f'{where}.bn3': 4 * middle}
            if not block:
                shapes[f'{where}.downsample.0.weight'] = (4 * middle, inputs, 1, 1)
                norms[f'{where}.downsample.1'] = 4 * middle
            inputs = 4 * middle
    for name, width in norms.items():
        shapes |= {f'{name}.{leaf}': (width,) for leaf in ('weight', 'bias', 'running_mean')}
        shapes[f'{name}.running_var'] = (width,)
    out = {k: rng.standard_normal(v).astype(np.float32) for k, v in shapes.items()}
    out = {k: abs(v) + 0.1 if k.endswith('var') else v for k, v in out.items()}
    return out | {f'{name}.num_batches_tracked': np.array(7) for name in norms}


def test_other_encoders_of_moco_are_left_out(written, tensors, resnet):
    """MoCo v3's file: the query encoder, its projector, and what pretraining needs."""

    def change(tensors):
        out = {f'module.base_encoder.{name}': value for name, value in tensors.items()}
        out |= {
            f'module.momentum_encoder.{name}': np.array(-value) for name, value in tensors.items()
        }
        more = ('module.base_encoder.fc.0.weight', 'module.predictor.0.weight')
        return out | {name: np.zeros((4, 4), np.float32) for name in more}

    tree, report = load_weights(written(change), resnet())
    want = tensors['layer2.0.bn3.running_var']
    np.testing.assert_array_equal(tree['block_02']['norm3']['var'], want)
    reasons = set(report.skipped.values())
    assert 'momentum encoder, used in pretraining only' in reasons
    assert len(report.skipped) == len(tensors) + 2 + sum('tracked' in name for name in tensors)


def test_every_problem_is_listed(written, resnet):
    def change(tensors):
        del tensors['layer1.1.bn2.running_mean'], tensors['layer2.0.downsample.0.weight']
        tensors['layer1.0.conv1.bias'] = np.zeros(8, np.float32)
        tensors['bn1.running_var'] = np.ones(9, np.float32)
        return tensors

    with pytest.raises(ValueError, match='does not fit in 4 places') as caught:
        load_weights(written(change), resnet())
    for line in (
        'unused: layer1.0.conv1.bias [8]',
        'missing: block_01/norm2/mean [8]',
        'missing: block_02/down_conv/kernel [1, 1, 32, 64]',
        'misshapen: bn1.running_var [9]',
    ):
        assert line in str(caught.value)


WRONG = {
    'depths': ({'depths': (2, 2)}, r'depths \(2, 1\).*asked.*depths \(2, 2\)'),
    'block': ({'block': 'basic'}, 'bottleneck blocks.*asked.*basic blocks'),
    'width': ({'width': 16}, 'width 8.*asked.*width 16'),
    'stem': ({'stem': 'small'}, 'stem 7x7.*asked.*stem 3x3'),
}


@pytest.mark.parametrize('case', WRONG)
def test_another_architecture(case, written, resnet):
    change, message = WRONG[case]
    resnet(arch='resnet_small_one')
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(written(), resnet(replace(SMALL, **change), arch='resnet_wanted'))
    assert 'resnet_small_one' in str(caught.value)  # says what the file would be


def test_grouped_convolutions_are_named(written, resnet):
    def change(tensors):
        kernels = {k: v[:, ::4] for k, v in tensors.items() if k.endswith('.conv2.weight')}
        return tensors | {k: np.ascontiguousarray(v) for k, v in kernels.items()}

    with pytest.raises(ValueError, match=r'in 4 group.*asked.*in 1 group'):
        load_weights(written(change), resnet())


@pytest.mark.parametrize(
    ('name', 'what'),
    [
        ('layer1.0.downsample.2.weight', 'a ResNet-D'),
        ('layer1.0.se.fc1.weight', 'further layers'),
        ('attnpool.k_proj.weight', 'of CLIP'),
    ],
)
def test_what_is_no_plain_resnet_is_refused(name, what, written, resnet):
    with pytest.raises(ValueError, match=f'{what}.* plain ResNet'):
        load_weights(written(lambda t: t | {name: np.zeros(3, np.float32)}), resnet())


def test_families_are_not_taken_for_each_other(written, listed, resnet):
    with pytest.raises(ValueError, match='is no ViT of a known format'):
        load_weights(written(), listed())
    with pytest.raises(ValueError, match=r"format 'timm' is unknown; allowed: .*'torchvision'"):
        load_weights(written(), resnet(), format='timm')


def test_damaged_variances_are_named(written, resnet):
    def change(tensors):
        return tensors | {'layer1.0.bn2.running_var': -np.ones(8, np.float32)}

    with pytest.raises(ValueError, match='block_00/norm2/var has negative'):
        load_weights(written(change), resnet())


def test_converting_keeps_every_weight_and_statistic(written, resnet, tmp_path):
    tree, report = load_weights(written(), resnet())
    save_converted(tmp_path / 'own.safetensors', tree, report.identity)
    again, own = load_weights(tmp_path / 'own.safetensors', 'resnet_test')
    assert own.config == report.config and own.identity.sha256 == report.identity.sha256
    flat = flatten(again)
    assert flat.keys() == flatten(tree).keys()
    for path, leaf in flatten(tree).items():
        np.testing.assert_array_equal(flat[path], leaf)


def test_facts_of_the_published_files():
    assert lookup('resnet50').filename == 'resnet50-0676ba61.pth'
    assert lookup('resnet101.torchvision_in1k_v2').filename == 'resnet101-cd907fc2.pth'
    assert lookup('resnet18.hf_in1k').url.startswith('https://huggingface.co/microsoft/resnet-18/')
    assert lookup('resnet152.a1_in1k').mean == (0.485, 0.456, 0.406)
