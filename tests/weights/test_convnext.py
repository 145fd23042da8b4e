"""ConvNeXt weights of every source against an independent torch implementation."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch_reference
from torch_reference import needs_torch, randomise

from jax_prompt.backbones.convnext_config import ConvNeXtConfig
from jax_prompt.backbones.families import family_of
from jax_prompt.backbones.table import lookup
from jax_prompt.core.spec import Cut
from jax_prompt.core.tree import count, flatten
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.weights.load import load_weights, save_converted

CONFIG = ConvNeXtConfig(16, (2, 1, 3, 1), 64)
WIDTHS = [16, 32, 64, 128]


@pytest.fixture
def convnext(listed):
    def add(config=CONFIG, **entry):
        return listed(config, **{'arch': 'convnext_test', 'format': 'timm', **entry})

    return add


@dataclass(frozen=True)
class Enlarged(Tuner):
    """Puts a border of zeros around the image."""

    border: int = 0

    def image(self, place, image):
        sides = (self.border, self.border)
        return np.pad(image, ((0, 0), sides, sides, (0, 0)))


def pixels():
    return np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)


def as_torch(images):
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2)


def timm_model():
    module = torch_reference.timm_convnext()
    return randomise(module.ConvNeXt(depths=CONFIG.depths, dims=WIDTHS, num_classes=5), scale=0.5)


def reference(source):
    """Returns a torch model, and its features of `pixels`."""
    import torch

    if source in ('timm', 'facebook'):
        model = timm_model()
        run = lambda x: model.forward_head(model.forward_features(x), pre_logits=True)  # noqa: E731
    elif source == 'torchvision':
        module = torch_reference.torchvision_convnext()
        pairs = zip(WIDTHS, [*WIDTHS[1:], None], CONFIG.depths, strict=True)
        settings = [module.CNBlockConfig(*pair) for pair in pairs]
        model = randomise(module.ConvNeXt(settings, num_classes=5), scale=0.5)
        run = lambda x: model.classifier[:2](model.avgpool(model.features(x)))  # noqa: E731
    else:
        package = torch_reference.transformers()
        options = package.ConvNextConfig(
            depths=list(CONFIG.depths), hidden_sizes=WIDTHS, num_labels=5
        )
        made = package.ConvNextModel if source == 'hf' else package.ConvNextForImageClassification
        model = randomise(made(options), scale=0.5)
        base = model if source == 'hf' else model.convnext
        run = lambda x: base(x).pooler_output  # noqa: E731
    with torch.no_grad():
        return model, run(as_torch(pixels())).flatten(1).numpy()


def as_authors(model):
    """Names timm's weights as the authors do, which timm's own rules turn back."""
    out = {}
    for name, value in model.state_dict().items():
        old = re.sub(r'^stem\.', 'downsample_layers.0.', name)
        old = re.sub(r'^stages\.(\d+)\.downsample\.', r'downsample_layers.\1.', old)
        old = re.sub(r'^(stages\.\d+)\.blocks\.', r'\1.', old)
        old = old.replace('conv_dw', 'dwconv').replace('mlp.fc', 'pwconv')
        out[old.replace('head.norm', 'norm').replace('head.fc', 'head')] = value
    back = torch_reference.timm_convnext().checkpoint_filter_fn(dict(out), model)
    assert back.keys() == model.state_dict().keys()
    return out


def saved(path, content):
    import torch

    torch.save(content, path)
    return path


@needs_torch
@pytest.mark.parametrize('source', ['timm', 'facebook', 'torchvision', 'hf', 'hf_head'])
def test_features_equal_those_of_torch(source, tmp_path, convnext, features):
    model, want = reference(source)
    form = 'hf' if source == 'hf_head' else source
    path = tmp_path / 'model.safetensors'
    if form == 'hf':
        model.save_pretrained(tmp_path)
    elif source == 'facebook':
        path = saved(tmp_path / 'w.pth', {'model': as_authors(model)})
    else:
        path = saved(tmp_path / 'w.pth', model.state_dict())
    other = 'timm' if form == 'hf' else 'hf'  # names tell the format
    tree, report = load_weights(path, convnext(format=other))
    assert report.identity.format == form and report.grid == 0
    epsilon = 1e-12 if form == 'hf' else 1e-6
    assert report.config == replace(CONFIG, pool_epsilon=epsilon)
    parameters = {n: p.numel() for n, p in model.named_parameters()}
    heads = ('head.fc', 'classifier.2', 'classifier.w', 'classifier.b')
    assert count(tree) == sum(v for n, v in parameters.items() if not n.startswith(heads))
    got = features(tree, report, pixels())
    assert want.std() > 0.1  # a reference without variation proves nothing
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


@needs_torch
@pytest.mark.parametrize('border', [0, 3])
def test_feature_maps_between_stages_equal_torchs(border, tmp_path, convnext):
    """Also of enlarged images, which patches and stages do not divide."""
    import torch

    model = timm_model()
    tree, _ = load_weights(
        saved(tmp_path / 'w.pth', {'state_dict': model.state_dict()}), convnext()
    )
    family = family_of(CONFIG)
    params, network = family.adapt(tree, CONFIG, ()), family.make(CONFIG, ())
    images, tuner = pixels(), Enlarged(border)
    with torch.no_grad():
        x = model.stem(as_torch(tuner.image(Place(), images)))
        for stage, first in enumerate(CONFIG.starts):
            x = model.stages[stage].downsample(x)
            got = network.apply({'params': params}, images, tuner, stop=Cut(first))
            np.testing.assert_allclose(got, x.permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-4)
            x = model.stages[stage].blocks(x)


@pytest.fixture
def tensors():
    """The weights of CONFIG under timm's names, random."""
    rng = np.random.default_rng(0)
    shapes = {'stem.0.weight': (16, 3, 4, 4), 'stem.0.bias': (16,)}
    norms = {'stem.1': 16, 'head.norm': 128}
    for stage, (depth, d) in enumerate(zip(CONFIG.depths, WIDTHS, strict=True)):
        if stage:
            norms[f'stages.{stage}.downsample.0'] = d // 2
            shapes[f'stages.{stage}.downsample.1.weight'] = (d, d // 2, 2, 2)
            shapes[f'stages.{stage}.downsample.1.bias'] = (d,)
        for layer in range(depth):
            where = f'stages.{stage}.blocks.{layer}'
            norms[f'{where}.norm'] = d
            shapes |= {
                f'{where}.gamma': (d,),
                f'{where}.conv_dw.weight': (d, 1, 7, 7),
                f'{where}.conv_dw.bias': (d,),
                f'{where}.mlp.fc1.weight': (4 * d, d),
                f'{where}.mlp.fc1.bias': (4 * d,),
                f'{where}.mlp.fc2.weight': (d, 4 * d),
                f'{where}.mlp.fc2.bias': (d,),
            }
    shapes |= {f'{name}.{leaf}': (d,) for name, d in norms.items() for leaf in ('weight', 'bias')}
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def test_every_problem_is_listed(written, convnext):
    def change(tensors):
        del tensors['stages.0.blocks.1.gamma'], tensors['stages.1.downsample.1.weight']
        tensors['stages.0.blocks.0.conv_dw.scale'] = np.zeros(16, np.float32)
        tensors['head.norm.bias'] = np.ones(9, np.float32)
        return tensors

    with pytest.raises(ValueError, match='does not fit in 4 places') as caught:
        load_weights(written(change), convnext())
    for line in (
        'unused: stages.0.blocks.0.conv_dw.scale [16]',
        'missing: block_01/ls1/scale [16]',
        'missing: down_02/conv/kernel [2, 2, 16, 32]',
        'misshapen: head.norm.bias [9]',
    ):
        assert line in str(caught.value)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'depths': (2, 1, 2, 1)}, r'depths \(2, 1, 3, 1\).*asked.*depths \(2, 1, 2, 1\)'),
        ({'width': 32}, 'width 16.*asked.*width 32'),
        ({'patch_size': 2}, 'patch 4.*asked.*patch 2'),
    ],
)
def test_another_architecture_is_named(change, message, written, convnext):
    convnext(arch='convnext_small_one')
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(written(), convnext(replace(CONFIG, **change), arch='convnext_wanted'))
    assert 'convnext_small_one' in str(caught.value)  # says what the file would be


@pytest.mark.parametrize(
    ('name', 'what'),
    [
        ('stages.0.blocks.0.mlp.grn.weight', 'a ConvNeXt V2'),
        ('norm_pre.weight', 'normalises before it pools'),
        ('head.pre_logits.fc.weight', 'a head of two layers'),
        ('stem.2.weight', 'whose stem overlaps'),
    ],
)
def test_what_is_no_plain_convnext_is_refused(name, what, written, convnext):
    with pytest.raises(ValueError, match=f'{what}.* plain ConvNeXt'):
        load_weights(written(lambda t: t | {name: np.zeros(3, np.float32)}), convnext())


def test_converting_keeps_every_weight(written, convnext, tmp_path):
    tree, report = load_weights(written(), convnext())
    save_converted(tmp_path / 'own.safetensors', tree, report.identity)
    again, own = load_weights(tmp_path / 'own.safetensors', 'convnext_test')
    assert own.config == report.config and own.identity.sha256 == report.identity.sha256
    flat = flatten(again)
    assert flat.keys() == flatten(tree).keys()
    for path, leaf in flatten(tree).items():
        np.testing.assert_array_equal(flat[path], leaf)


def test_what_lies_beside_a_file_decides_the_last_epsilon(written, convnext, tmp_path):
    described = '{"model_type": "convnext", "hidden_sizes": [16, 32, 64, 128], '
    described += '"depths": [2, 1, 3, 1], "layer_norm_eps": 1e-5, "hidden_act": "gelu"}'
    (tmp_path / 'config.json').write_text(described)
    name = convnext(filename='elsewhere.pth')
    assert load_weights(written(), name)[1].config.pool_epsilon == 1e-5
    (tmp_path / 'config.json').write_text(described.replace('64', '96'))
    _, report = load_weights(written(), name)
    assert report.config.pool_epsilon == 1e-6
    assert any('hidden_sizes' in note for note in report.notes)


def test_facts_of_the_published_files():
    assert lookup('convnext_t_224.torchvision_in1k').filename == 'convnext_tiny-983f1562.pth'
    assert lookup('convnext_b_224').filename == 'convnext_base_22k_224.pth'
    assert lookup('convnext_s_224.hf_in1k').config.pool_epsilon == 1e-12
