"""Swin weights of every source against an independent torch implementation."""

from dataclasses import replace

import numpy as np
import pytest
import torch_reference
from torch_reference import needs_torch, randomise

from jax_prompt.backbones.families import family_of
from jax_prompt.backbones.swin_config import SwinConfig
from jax_prompt.backbones.table import lookup
from jax_prompt.core.spec import Cut
from jax_prompt.core.tree import flatten
from jax_prompt.nn.windows import resize_relative_bias
from jax_prompt.weights.load import load_weights, save_converted

SWIN = SwinConfig(8, (2, 1, 2), (1, 2, 4), 4, 4, 64)
SIZES = {'embed_dim': 8, 'depths': [2, 1, 2], 'num_heads': [1, 2, 4]}
CLASSES = 5


@pytest.fixture
def swin(listed):
    def add(config=SWIN, **entry):
        return listed(config, **{'arch': 'swin_test', 'format': 'microsoft', **entry})

    return add


def pixels(size=64):
    return np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)


def as_torch(images):
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2)


def timm_model(**options):
    module = torch_reference.timm_swin()
    options = {'img_size': 64, 'patch_size': 4, 'window_size': 4, **SIZES, **options}
    return randomise(module.SwinTransformer(num_classes=CLASSES, **options))


def timm_features(model, images):
    import torch

    with torch.no_grad():
        return model.forward_head(model.forward_features(as_torch(images)), pre_logits=True).numpy()


def saved(path, content):
    import torch

    torch.save(content, path)
    return path


def as_published(weights):
    """The names of the authors' files: merging ends a stage; indices and masks are stored."""
    import torch

    out = {}
    for name, value in weights.items():
        if 'downsample' in name:
            stage = int(name.split('.')[1])
            name = name.replace(f'layers.{stage}.', f'layers.{stage - 1}.')
        out[name.replace('head.fc', 'head')] = value
    out['layers.0.blocks.0.attn.relative_position_index'] = torch.zeros(16, 16, dtype=torch.int64)
    out['layers.0.blocks.1.attn_mask'] = torch.zeros(16, 16, 16)
    return out


def assert_close(ours, reference):
    assert ours.shape == reference.shape
    assert reference.std() > 0.1  # a reference without variation proves nothing
    np.testing.assert_allclose(ours, reference, rtol=0, atol=2e-5)


@needs_torch
@pytest.mark.parametrize('format', ['timm', 'microsoft'])
def test_timm_and_the_authors_files(format, tmp_path, swin, features):
    """The same weights, merging numbered in two ways; each is told from the names."""
    model = timm_model()
    weights = model.state_dict()
    content = {'model': as_published(weights)} if format == 'microsoft' else weights
    other = {'timm': 'microsoft', 'microsoft': 'timm'}[format]
    tree, report = load_weights(saved(tmp_path / 'w.pth', content), swin(format=other))
    assert report.identity.format == format
    assert report.grid == 4 and report.config == SWIN
    extra = {'relative_position_index', 'attn_mask'} if format == 'microsoft' else set()
    kinds = {name.rsplit('.', 1)[-1] for name in report.skipped}
    assert kinds == {'weight', 'bias'} | extra
    assert len(flatten(tree)) == 4 + 2 + 2 * 3 + 5 * 13
    assert_close(features(tree, report, pixels()), timm_features(model, pixels()))


@needs_torch
def test_tokens_between_stages_equal_timms(tmp_path, swin):
    import torch

    model = timm_model()
    tree, _ = load_weights(saved(tmp_path / 'w.pth', model.state_dict()), swin())
    family = family_of(SWIN)
    params = family.adapt(tree, SWIN, ())
    with torch.no_grad():
        x = model.patch_embed(as_torch(pixels()))
        for stage, first in enumerate(SWIN.starts):
            x = model.layers[stage].downsample(x)
            got = family.make(SWIN, ()).apply({'params': params}, pixels(), stop=Cut(first))
            np.testing.assert_allclose(got, x.flatten(1, 2).numpy(), rtol=0, atol=1e-5)
            x = model.layers[stage].blocks(x)


@needs_torch
@pytest.mark.parametrize('size', [64, 80])
@pytest.mark.parametrize('head', [False, True])
def test_hf(head, size, tmp_path, swin, features):
    """80 pixels: grids of 20, 10 and 5, which windows of 4 do not divide."""
    import torch

    package = torch_reference.transformers()
    config = package.SwinConfig(image_size=size, patch_size=4, window_size=4, **SIZES)
    model = randomise(
        package.SwinForImageClassification(config) if head else package.SwinModel(config)
    )
    model.save_pretrained(tmp_path)  # its names on disk differ from those in memory
    asked = replace(SWIN, image_size=size)
    tree, report = load_weights(tmp_path / 'model.safetensors', swin(asked))
    assert report.identity.format == 'hf' and report.config.norm_epsilon == config.layer_norm_eps
    assert ('classifier.weight' in report.skipped) == head
    with torch.no_grad():
        out = (model.swin if head else model)(as_torch(pixels(size))).last_hidden_state
    assert_close(features(tree, report, pixels(size)), out.mean(1).numpy())


@needs_torch
@pytest.mark.parametrize('size', [64, 72])
def test_torchvision(size, tmp_path, swin, features):
    """72 pixels: grids of 18, 9 and 5, which neither windows nor merging divide."""
    import torch

    module = torch_reference.torchvision_swin()
    model = randomise(
        module.SwinTransformer(patch_size=[4, 4], window_size=[4, 4], num_classes=CLASSES, **SIZES)
    )
    tree, report = load_weights(
        saved(tmp_path / 'w.pth', model.state_dict()), swin(replace(SWIN, image_size=size))
    )
    assert report.identity.format == 'torchvision'
    with torch.no_grad():
        tokens = model.norm(model.features(as_torch(pixels(size))))
    assert_close(features(tree, report, pixels(size)), tokens.mean((1, 2)).numpy())


@needs_torch
@pytest.mark.parametrize(('source', 'target'), [(4, 7), (7, 4), (7, 12)])
def test_position_biases_are_resized_as_timm_does(source, target):
    import torch

    torch_reference.timm_swin()
    from timm.layers import resize_rel_pos_bias_table_simple

    rng = np.random.default_rng(0)
    table = rng.standard_normal(((2 * source - 1) ** 2, 3)).astype(np.float32)
    want = resize_rel_pos_bias_table_simple(
        torch.from_numpy(table), (target, target), ((2 * target - 1) ** 2, 3)
    )
    np.testing.assert_allclose(resize_relative_bias(table, target), want.numpy(), atol=1e-5)


@needs_torch
def test_a_file_of_other_windows_runs_with_the_asked_ones(tmp_path, swin, features):
    """Its tables are resized, as those of a timm model of that window are."""
    path = saved(tmp_path / 'w.pth', timm_model().state_dict())
    tree, report = load_weights(path, swin(replace(SWIN, window=8)))
    assert (report.grid, report.config.window) == (4, 8)
    assert tree['block_00']['attn']['relative_bias'].shape == (49, 1)
    assert features(tree, report, pixels()).shape == (2, 32)


@pytest.fixture
def tensors():
    """The weights of SWIN under the authors' names, random."""
    rng = np.random.default_rng(0)
    out = {'patch_embed.proj.weight': (8, 3, 4, 4), 'patch_embed.proj.bias': (8,)}
    out |= {f'patch_embed.norm.{leaf}': (8,) for leaf in ('weight', 'bias')}
    for stage, (depth, heads) in enumerate(zip(SWIN.depths, SWIN.num_heads, strict=True)):
        d = 8 * 2**stage
        for block in range(depth):
            where = f'layers.{stage}.blocks.{block}'
            dense = {'attn.qkv': (3 * d, d), 'attn.proj': (d, d), 'mlp.fc1': (4 * d, d)}
            for name, shape in {**dense, 'mlp.fc2': (d, 4 * d)}.items():
                out |= {f'{where}.{name}.weight': shape, f'{where}.{name}.bias': shape[:1]}
            for name in ('norm1', 'norm2'):
                out |= {f'{where}.{name}.{leaf}': (d,) for leaf in ('weight', 'bias')}
            out[f'{where}.attn.relative_position_bias_table'] = (49, heads)
        if stage < 2:
            where = f'layers.{stage}.downsample'
            out |= {f'{where}.norm.{leaf}': (4 * d,) for leaf in ('weight', 'bias')}
            out[f'{where}.reduction.weight'] = (2 * d, 4 * d)
    out |= {f'norm.{leaf}': (32,) for leaf in ('weight', 'bias')}
    return {k: rng.standard_normal(v).astype(np.float32) for k, v in out.items()}


@pytest.fixture
def written(tmp_path, tensors):
    from safetensors.numpy import save_file

    def write(change=None):
        if change is not None:
            change(tensors)
        save_file(tensors, tmp_path / 'w.safetensors')
        return tmp_path / 'w.safetensors'

    return write


def test_every_problem_is_listed(written, swin):
    def change(tensors):
        tensors['layers.0.downsample.reduction.bias'] = np.zeros(16, np.float32)
        del tensors['layers.1.downsample.norm.bias'], tensors['layers.2.blocks.1.attn.qkv.bias']
        tensors['layers.1.blocks.0.mlp.fc2.weight'] = np.zeros((3, 64), np.float32)

    with pytest.raises(ValueError, match='does not fit in 4 places') as caught:
        load_weights(written(change), swin())
    for line in (
        'unused: layers.0.downsample.reduction.bias [16]',
        'missing: merge_03/norm/bias [64]',
        'missing: block_04/attn/qkv/bias [96]',
        'misshapen: layers.1.blocks.0.mlp.fc2.weight [3, 64]',
    ):
        assert line in str(caught.value)


WRONG = {
    'width': ({'width': 16}, 'a Swin of width 8, .*asked.*width 16'),
    'depths': ({'depths': (2, 2, 2)}, r'depths \(2, 1, 2\).*asked.*depths \(2, 2, 2\)'),
    'heads': ({'num_heads': (2, 4, 8)}, r'heads \(1, 2, 4\).*asked.*heads \(2, 4, 8\)'),
    'patch': ({'patch_size': 8}, 'patch 4.*asked.*patch 8'),
}


@pytest.mark.parametrize('case', WRONG)
def test_another_architecture(case, written, swin):
    change, message = WRONG[case]
    swin(arch='swin_small_one')
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(written(), swin(replace(SWIN, **change), arch='swin_wanted'))
    assert 'swin_small_one' in str(caught.value)  # says what the file would be


@pytest.mark.parametrize(
    ('name', 'what'),
    [
        ('layers.0.blocks.0.attn.logit_scale', 'a Swin V2'),
        ('absolute_pos_embed', 'absolute positions'),
        ('cls_token', 'a ViT'),
    ],
)
def test_what_is_no_plain_swin_is_refused(name, what, written, swin):
    with pytest.raises(ValueError, match=f'{what}.* plain Swin'):
        load_weights(written(lambda t: t.update({name: np.zeros(3, np.float32)})), swin())


def test_families_are_not_taken_for_each_other(written, swin, listed):
    with pytest.raises(ValueError, match='makes it a Swin'):
        load_weights(written(), listed())
    with pytest.raises(ValueError, match=r"format 'mae' is unknown; allowed: .*'torchvision'"):
        load_weights(written(), swin(), format='mae')


def test_tables_of_no_square_window_are_named(written, swin):
    def change(tensors):
        tensors['layers.0.blocks.1.attn.relative_position_bias_table'] = np.zeros(
            (48, 1), np.float32
        )

    with pytest.raises(ValueError, match='block 1 has 48 relative position biases'):
        load_weights(written(change), swin())


def test_converting_keeps_every_weight(written, swin, tmp_path):
    tree, report = load_weights(written(), swin())
    save_converted(tmp_path / 'own.safetensors', tree, report.identity)
    again, own = load_weights(tmp_path / 'own.safetensors', 'swin_test')
    assert own.config == report.config and own.identity.sha256 == report.identity.sha256
    flat = flatten(again)
    for path, leaf in flatten(tree).items():
        np.testing.assert_array_equal(flat[path], leaf)


def test_facts_of_the_published_files():
    assert lookup('swin_b_224').name == 'swin_b_224.ms_in22k'
    assert lookup('swin_b_224.ms_in22k').filename == 'swin_base_patch4_window7_224_22k.pth'
    assert lookup('swin_l_384.ms_in22k_ft_in1k').filename.endswith('window12_384_22kto1k.pth')
    assert lookup('swin_t_224.torchvision_in1k').format == 'torchvision'
    assert all(v > 0 for v in lookup('swin_b_384.hf_in22k').std)
