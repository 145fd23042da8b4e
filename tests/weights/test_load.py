"""Loading is strict, says what it did, and can be written and read again."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core import colour
from jax_prompt.core.tree import count, flatten, stack_layers
from jax_prompt.weights.identity import Identity
from jax_prompt.weights.load import load_weights, save_converted
from jax_prompt.weights.readers import read

GOLDEN = Path(__file__).parent / 'golden'
SMALL = ViTConfig(width=16, depth=2, num_heads=2, mlp_dim=64, patch_size=8, image_size=32)


@pytest.fixture
def small(listed):
    return listed(SMALL)


@pytest.fixture
def changed(tmp_path):
    """Writes the golden weights with some of them changed."""

    def write(change=None, container=None):
        tensors = {k: np.array(v) for k, v in read(GOLDEN / 'timm_zip.pth').tensors.items()}
        if change is not None:
            change(tensors)
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / 'w.bin')
        return tmp_path / 'w.bin'

    return write


@pytest.mark.parametrize('form', ['zip', 'legacy'])
def test_golden_network(form, small, features):
    """A whole network against features that timm computed once; needs no torch."""
    tree, report = load_weights(GOLDEN / f'timm_{form}.pth', small)
    golden = np.load(GOLDEN / 'timm_features.npz')
    rng = np.random.default_rng(int(golden['images_seed']))
    images = rng.standard_normal((2, 32, 32, 3)).astype(np.float32)
    ours = features(tree, report, images)
    assert golden['features'].std() > 0.1
    np.testing.assert_allclose(ours, golden['features'], rtol=0, atol=2e-5)


def test_report(small):
    tree, report = load_weights(GOLDEN / 'timm_zip.pth', small)
    assert set(report.skipped) == {'head.weight', 'head.bias'}
    assert report.used['blocks.1.attn.qkv.weight'] == 'block_01/attn/qkv/kernel'
    assert len(report.used) == len(flatten(tree)) == 4 + 2 * 12 + 2
    assert (report.grid, report.form, report.container) == (4, 'torch zip', '')
    text = str(report)
    assert 'skipped head.bias: classifier head' in text and report.identity.sha256 in text


def test_leaves_are_float32_whatever_the_file_holds(changed, small):
    def change(tensors):
        tensors['norm.weight'] = tensors['norm.weight'].astype(np.float16)

    tree, _ = load_weights(changed(change), small)
    assert {leaf.dtype.name for leaf in flatten(tree).values()} == {'float32'}
    # What is float32 in the file is not copied; nobody can write through it into the file.
    assert tree['norm']['scale'].flags.writeable
    assert not tree['block_00']['mlp']['fc1']['kernel'].flags.writeable


def test_every_problem_is_listed(small, changed):
    def change(tensors):
        tensors['blocks.1.mlp.fc3.weight'] = np.zeros((2, 2), np.float32)
        del tensors['blocks.0.norm2.bias'], tensors['norm.weight']
        tensors['blocks.0.attn.proj.bias'] = np.zeros(17, np.float32)
        tensors['blocks.1.norm1.weight'] = np.zeros(16, np.int64)

    with pytest.raises(ValueError, match='does not fit in 5 places') as caught:
        load_weights(changed(change), small)
    for line in (
        'unused: blocks.1.mlp.fc3.weight [2, 2]',
        'missing: block_00/ln2/bias [16]',
        'missing: norm/scale [16]',
        'misshapen: blocks.0.attn.proj.bias [17]: as block_00/attn/proj/bias it is [17], the '
        'architecture needs [16]',
        'misshapen: blocks.1.norm1.weight holds int64',
    ):
        assert line in str(caught.value)


def test_missing_part_of_a_joined_leaf(small, tmp_path, listed):
    tree, _ = load_weights(GOLDEN / 'timm_zip.pth', small)
    names = {'embeddings.patch_embeddings.projection.weight': np.zeros((16, 3, 8, 8), np.float32)}
    where = 'encoder.layer.0.attention.attention'
    for part in ('query', 'value'):
        names[f'{where}.{part}.weight'] = tree['block_00']['attn']['qkv']['kernel'][:, :16].copy()
    save_file(names, tmp_path / 'w.safetensors')
    with pytest.raises(ValueError, match=r'missing: block_00/attn/qkv/kernel \(part 2 of 3\)'):
        load_weights(tmp_path / 'w.safetensors', small)


def test_two_names_for_one_leaf(small, changed):
    def change(tensors):
        tensors['fc_norm.weight'] = tensors['norm.weight']

    with pytest.raises(ValueError, match='another name has filled norm/scale'):
        load_weights(changed(change), small)


WRONG = {
    'width': (ViTConfig(32, 2, 2, 64, 8, 32), 'width 16, depth 2, patch 8 .*asked.*width 32'),
    'depth': (replace(SMALL, depth=3), 'depth 2.*asked.*depth 3'),
    'patch': (replace(SMALL, patch_size=16), 'patch 8.*asked.*patch 16'),
    'registers': (replace(SMALL, num_registers=2), 'asked.*2 registers'),
    'layer scale': (replace(SMALL, layer_scale=True), 'asked.*layer scale'),
}


@pytest.mark.parametrize('case', WRONG)
def test_another_architecture(case, listed):
    listed(SMALL, arch='vit_small_one')
    config, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(GOLDEN / 'timm_zip.pth', listed(config, arch='vit_wanted'))
    assert 'vit_small_one' in str(caught.value)  # says what the file would be


REFUSED = {
    'dist_token': 'a distilled DeiT',
    'blocks.0.mlp.w12.weight': 'SwiGLU',
    'blocks.0.attn.q_norm.weight': 'normalises queries',
    'blocks.0.gamma_1': 'a BEiT',
    'norm_pre.weight': 'a norm before the blocks',
    'attn_pool.latent': 'attention pooling',
}


@pytest.mark.parametrize('name', REFUSED)
def test_other_kinds_of_vit(name, small, changed):
    path = changed(lambda tensors: tensors.update({name: np.zeros((1, 1), np.float32)}))
    with pytest.raises(ValueError, match=REFUSED[name]):
        load_weights(path, small)


def test_positions_that_are_no_square(small, changed):
    def change(tensors):
        tensors['pos_embed'] = tensors['pos_embed'][:, :14]

    with pytest.raises(ValueError, match='14 rows, which is no square grid'):
        load_weights(changed(change), small)


def test_no_vit_at_all(small, tmp_path):
    save_file({'conv1.weight': np.zeros((2, 2), np.float32)}, tmp_path / 'w.safetensors')
    with pytest.raises(ValueError, match='no ViT of a known format'):
        load_weights(tmp_path / 'w.safetensors', small)


def test_formats_by_hand(small):
    path = GOLDEN / 'timm_zip.pth'
    assert load_weights(path, small, format='dino')[1].identity.format == 'dino'
    with pytest.raises(ValueError, match=r"lacks 'embedding/kernel'.*not of format google"):
        load_weights(path, small, format='google')
    with pytest.raises(ValueError, match=r"format 'keras' is unknown; allowed: \['auto'"):
        load_weights(path, small, format='keras')


def test_names_that_tell_too_little(listed, changed):
    """`module.` is MoCo v3's, whose ViT-S has other heads, and that of any parallel training."""

    def change(tensors):
        for name in list(tensors):
            tensors[f'module.{name}'] = tensors.pop(name)

    path = changed(change)
    with pytest.raises(ValueError, match='may be of format moco_v3 or timm; give the format'):
        load_weights(path, listed(SMALL, format='google'))
    for format in ('timm', 'moco_v3'):
        assert load_weights(path, 'vit_test', format=format)[1].identity.format == format
        assert load_weights(path, listed(SMALL, format=format))[1].identity.format == format


def test_normalisation_belongs_to_the_weights(listed):
    path = GOLDEN / 'timm_zip.pth'
    listed(SMALL, tag='one')
    listed(SMALL, tag='two', mean=colour.IMAGENET_MEAN, std=colour.IMAGENET_STD)
    assert load_weights(path, 'vit_test.one')[1].identity.mean == colour.HALF
    assert load_weights(path, 'vit_test.two')[1].identity.mean == colour.IMAGENET_MEAN
    _, report = load_weights(path, 'vit_test')
    assert report.identity.name == 'vit_test' and 'is in no table' in report.notes[0]
    # An own file of a format whose authors used ImageNet's normalisation gets that.
    assert load_weights(path, 'vit_test', format='mae')[1].identity.std == colour.IMAGENET_STD
    _, report = load_weights(path, 'vit_test.one', mean=(0, 0, 0), std=(1, 1, 1))
    assert (report.identity.mean, report.identity.std) == ((0, 0, 0), (1, 1, 1))
    for wrong in ((0.1, 0.2), (0, 0, 0), (np.nan, 1, 1)):
        with pytest.raises(ValueError, match='std is'):
            load_weights(path, 'vit_test.one', std=wrong)


def test_files_are_known_by_their_published_name(listed):
    """Asked for the architecture alone, a published file is read as what it is."""
    config = replace(SMALL, pool='mean', norm_after_pool=True)
    listed(SMALL, tag='one')
    listed(config, tag='two', filename='timm_zip.pth')
    _, report = load_weights(GOLDEN / 'timm_zip.pth', 'vit_test')
    assert report.identity.name == 'vit_test.two' and report.config == config


def test_published_checksum(listed):
    name = listed(SMALL, filename='timm_zip.pth', sha256='0' * 64)
    with pytest.raises(ValueError, match=r'has sha256 [0-9a-f]{64}; the published'):
        load_weights(GOLDEN / 'timm_zip.pth', name)


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
@pytest.mark.parametrize('stacked', [False, True])
def test_converted_files(dtype, stacked, small, tmp_path):
    tree, report = load_weights(GOLDEN / 'timm_zip.pth', small)
    path = tmp_path / 'own.safetensors'
    save_converted(path, stack_layers(tree) if stacked else tree, report.identity, dtype)
    again, own = load_weights(path, small)
    assert own.identity.converted_sha256 not in (None, report.identity.sha256)
    assert replace(own.identity, converted_sha256=None) == report.identity
    assert own.config == report.config and own.skipped == {}
    bound = {'float32': 0, 'float16': 1e-3, 'bfloat16': 1e-2}[dtype]
    flat = flatten(again)
    for name, leaf in flatten(tree).items():
        np.testing.assert_allclose(flat[name], leaf, rtol=bound, atol=1e-6 * (bound > 0))
    size = path.stat().st_size / count(tree)
    assert size < (4.5 if dtype == 'float32' else 2.5)
    assert [p.name for p in tmp_path.iterdir()] == ['own.safetensors']


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
def test_converted_files_are_those_of_the_safetensors_package(dtype, small, tmp_path):
    tree, report = load_weights(GOLDEN / 'timm_zip.pth', small)
    save_converted(tmp_path / 'own', tree, report.identity, dtype)
    arrays = {path: leaf.astype(np.dtype(dtype)) for path, leaf in flatten(tree).items()}
    arrays = {path: np.ascontiguousarray(leaf) for path, leaf in arrays.items()}
    text = json.dumps(report.identity.to_dict() | {'converted_sha256': None}, sort_keys=True)
    assert (tmp_path / 'own').read_bytes() == save(arrays, metadata={'jax_prompt': text})


def test_converted_files_keep_what_the_names_decided(listed, changed, tmp_path):
    def change(tensors):
        tensors['fc_norm.weight'] = tensors.pop('norm.weight')
        tensors['fc_norm.bias'] = tensors.pop('norm.bias')

    tree, report = load_weights(changed(change), listed(SMALL))
    save_converted(tmp_path / 'own.safetensors', tree, report.identity)
    assert load_weights(tmp_path / 'own.safetensors', 'vit_test')[1].config == report.config
    assert report.config.norm_after_pool


def test_converted_files_are_not_taken_for_others(small, listed, tmp_path):
    tree, report = load_weights(GOLDEN / 'timm_zip.pth', small)
    path = tmp_path / 'own.safetensors'
    save_converted(path, tree, report.identity)
    with pytest.raises(ValueError, match=r'holds vit_test.test; asked: vit_test.other'):
        load_weights(path, listed(SMALL, tag='other'))
    arrays = load_file(path)
    save_file(arrays, path, metadata={'jax_prompt': '{"name": "vit_test"}'})
    with pytest.raises(ValueError, match='its identity is damaged'):
        load_weights(path, small)


def test_failed_writes_leave_the_old_file(small, tmp_path, monkeypatch):
    tree, report = load_weights(GOLDEN / 'timm_zip.pth', small)
    path = tmp_path / 'own.safetensors'
    save_converted(path, tree, report.identity)
    before = path.read_bytes()
    monkeypatch.setattr(os, 'replace', lambda *_: (_ for _ in ()).throw(OSError('full')))
    with pytest.raises(OSError, match='full'):
        save_converted(path, tree, report.identity, 'float16')
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_what_float16_cannot_hold(small, tmp_path):
    tree, report = load_weights(GOLDEN / 'timm_zip.pth', small)
    tree['norm']['scale'] = np.full(16, 1e6, np.float32)
    with pytest.raises(ValueError, match='norm/scale is not finite in float16'):
        save_converted(tmp_path / 'own.safetensors', tree, report.identity, 'float16')
    with pytest.raises(ValueError, match="dtype 'int8' is unknown"):
        save_converted(tmp_path / 'own.safetensors', tree, report.identity, 'int8')


def test_identity_survives_json(small):
    _, report = load_weights(GOLDEN / 'timm_zip.pth', small)
    identity = replace(report.identity, overrides=(('norm_epsilon', 1e-12),))
    assert Identity.from_dict(identity.to_dict()) == identity
    assert identity.config() == replace(SMALL, norm_epsilon=1e-12)
    with pytest.raises(ValueError, match='not the fields of an identity'):
        Identity.from_dict({'name': 'vit_test'})
