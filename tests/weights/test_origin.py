"""What decides how weights are run: the tag, what lies beside the file, sure names; else nobody."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.colour import HALF, IMAGENET_MEAN, IMAGENET_STD
from jax_prompt.core.tree import flatten
from jax_prompt.weights.identity import Identity
from jax_prompt.weights.load import load_weights, save_converted
from jax_prompt.weights.readers import read

GOLDEN = Path(__file__).parent / 'golden' / 'timm_zip.pth'
SMALL = ViTConfig(width=16, depth=2, num_heads=2, mlp_dim=64, patch_size=8, image_size=32)
ARCH = 'vit_test'


@pytest.fixture(scope='module')
def plain():
    """Names and arrays of a ViT under timm's names, without a head."""
    tensors = read(GOLDEN).tensors
    return {k: np.array(v) for k, v in tensors.items() if not k.startswith('head')}


@pytest.fixture
def tags(listed):
    """An architecture with weights of three kinds."""
    imagenet = {'mean': IMAGENET_MEAN, 'std': IMAGENET_STD}
    listed(SMALL, tag='augreg_in21k', format='google', filename='a.npz')
    listed(SMALL, tag='dino', format='dino', filename='b.pth', **imagenet)
    averaged = replace(SMALL, pool='mean', norm_after_pool=True)
    listed(averaged, tag='mae', format='mae', filename='c.pth', **imagenet)


def write(path, tensors, **more):
    save_file({k: np.ascontiguousarray(v) for k, v in (tensors | more).items()}, path)
    return path


def test_a_guess_is_refused_with_the_tags_that_settle_it(tags, plain, tmp_path):
    path = write(tmp_path / 'own.pth', plain)
    _, report = load_weights(path, ARCH)
    assert report.config.pool == 'cls' and report.identity.mean == HALF  # no MAE
    for way in (f'{ARCH}.augreg_in21k', f'{ARCH}.dino', f'{ARCH}.mae'):
        assert f'--config.backbone={way}' in report.unsettled
    assert 'pool, norm_after_pool, mean, std may differ' in report.unsettled
    # A tag settles it, whatever the container was called, and so does a format with one meaning.
    for tag, pool, mean in (
        ('augreg_in21k', 'cls', HALF),
        ('dino', 'cls', IMAGENET_MEAN),
        ('mae', 'mean', IMAGENET_MEAN),
    ):
        _, report = load_weights(path, f'{ARCH}.{tag}')
        assert (report.config.pool, report.identity.mean) == (pool, mean)
        assert not report.unsettled
    _, report = load_weights(path, ARCH, format='mae')
    assert report.config.norm_after_pool and not report.unsettled


def test_a_head_settles_the_pooling_but_not_the_normalisation(tags, plain, tmp_path):
    path = write(tmp_path / 'own.pth', plain, **{'head.weight': np.zeros((5, 16), np.float32)})
    _, report = load_weights(path, ARCH)
    assert 'run: mean, std may differ' in report.unsettled
    _, report = load_weights(path, ARCH, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert not report.unsettled and report.identity.mean == IMAGENET_MEAN
    # Where the norm comes is still open with the mean of patches, and is the same with the class.
    both = {'mean': IMAGENET_MEAN, 'std': IMAGENET_STD}
    path = write(tmp_path / 'own.pth', plain)
    assert 'norm_after_pool' in load_weights(path, ARCH, pool='mean', **both)[1].unsettled
    assert not load_weights(path, ARCH, pool='cls', **both)[1].unsettled


def test_sure_names_settle_it(tags, plain, tmp_path):
    more = {'decoder_embed.weight': np.zeros((2, 16), np.float32)}
    _, report = load_weights(write(tmp_path / 'own.pth', plain, **more), ARCH)
    assert (report.identity.format, report.config.pool) == ('mae', 'mean')
    assert report.identity.mean == IMAGENET_MEAN and not report.unsettled
    more = {'masked_embed': np.zeros((1, 16), np.float32)}  # iBOT
    _, report = load_weights(write(tmp_path / 'own.pth', plain, **more), ARCH)
    assert report.identity.format == 'dino' and not report.unsettled
    assert report.identity.mean == IMAGENET_MEAN and 'masked_embed' in report.skipped


def hf(plain):
    """The same network under the names of Hugging Face, without positions' or qkv's parts."""
    out = {}
    for name, value in plain.items():
        name = name.replace('cls_token', 'embeddings.cls_token')
        name = name.replace('pos_embed', 'embeddings.position_embeddings')
        name = name.replace('patch_embed.proj', 'embeddings.patch_embeddings.projection')
        name = name.replace('blocks.', 'layers.').replace('attn.proj', 'attention.o_proj')
        name = name.replace('norm1', 'layernorm_before').replace('norm2', 'layernorm_after')
        name = 'layernorm' + name[4:] if name.startswith('norm.') else name
        if 'attn.qkv' in name:
            for part, array in zip('qkv', np.split(value, 3), strict=True):
                out[name.replace('attn.qkv', f'attention.{part}_proj')] = array
        else:
            out[name] = value
    return out


def test_what_lies_beside_a_file_of_hugging_face_is_read(tags, plain, tmp_path):
    path = write(tmp_path / 'model.safetensors', hf(plain))
    assert 'mean' in load_weights(path, ARCH)[1].unsettled
    said = {'image_mean': list(IMAGENET_MEAN), 'image_std': list(IMAGENET_STD)}
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(said))
    config = {'model_type': 'vit', 'hidden_size': 16, 'layer_norm_eps': 1e-5}
    (tmp_path / 'config.json').write_text(json.dumps(config | {'num_attention_heads': 4}))
    _, report = load_weights(path, ARCH)
    assert (report.identity.mean, report.identity.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert (report.config.num_heads, report.config.norm_epsilon) == (4, 1e-5)
    assert not report.unsettled and 'preprocessor_config.json beside it says' in report.notes[-1]
    # A tag decides; what speaks against it is said.
    _, report = load_weights(path, f'{ARCH}.augreg_in21k')
    assert report.identity.mean == HALF and report.config.num_heads == 2
    assert 'stands for mean (0.5, 0.5, 0.5)' in report.notes[0] and '4 heads' in report.notes[1]
    # A run that has recorded what it read then, reads the same without them.
    for name in ('config.json', 'preprocessor_config.json'):
        (tmp_path / name).unlink()
    recorded = Identity.from_dict(json.loads(json.dumps(report.identity.to_dict())))
    _, again = load_weights(path, f'{ARCH}.augreg_in21k', identity=recorded)
    assert again.identity == report.identity and again.config == report.config


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('config.json', '{"model_type"', 'config.json is damaged'),
        ('config.json', '{"model_type": "vit", "hidden_act": "gelu_new"}', "hidden_act is 'gelu_n"),
        (
            'config.json',
            '{"model_type": "vit", "num_attention_heads": 3}',
            'no multiple of 3 heads',
        ),
        ('config.json', '{"model_type": "vit", "layer_norm_eps": NaN}', 'norm_epsilon is nan'),
        ('config.json', '[' * 99999, 'config.json is damaged'),
        ('preprocessor_config.json', '{"image_mean": [1], "image_std": [1]}', r'mean is \[1\]'),
    ],
)
def test_what_lies_beside_a_file_is_checked(name, content, message, tags, plain, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_weights(write(tmp_path / 'model.safetensors', plain), ARCH)


def test_files_of_another_network_and_of_a_crowded_folder_are_left_aside(tags, plain, tmp_path):
    (tmp_path / 'config.json').write_text('{"model_type": "vit", "hidden_size": 17}')
    path = write(tmp_path / 'model.safetensors', plain)
    assert 'hidden_size is 17' in load_weights(path, ARCH)[1].notes[0]
    assert 'several checkpoints' in load_weights(write(tmp_path / 'x.pth', plain), ARCH)[1].notes[0]


def test_timms_config_names_the_weights(listed, plain, tmp_path):
    url = 'https://huggingface.co/timm/vit_small_thing.sam_in1k/resolve/main/model.safetensors'
    listed(SMALL, tag='augreg_in21k', filename='other.pth')
    listed(SMALL, tag='sam_in1k', filename='model.safetensors', url=url)
    own = {'tag': 'sam_in1k', 'mean': [0.1] * 3, 'std': [0.2] * 3, 'num_classes': 9}
    said = {'architecture': 'vit_small_thing', 'num_classes': 9, 'pretrained_cfg': own}
    (tmp_path / 'config.json').write_text(json.dumps(said))
    path = write(tmp_path / 'model.safetensors', plain)
    assert load_weights(path, ARCH)[1].identity.name == f'{ARCH}.sam_in1k'
    # Asked for as other weights: run as asked, and recorded both ways.
    identity = (report := load_weights(path, f'{ARCH}.augreg_in21k')[1]).identity
    assert (identity.asked, identity.name) == (f'{ARCH}.augreg_in21k', f'{ARCH}.sam_in1k')
    assert f'the file is {ARCH}.sam_in1k: run as asked' in report.notes[0]
    # Tuned further by somebody, it is no longer the published file; its normalisation still is.
    (tmp_path / 'config.json').write_text(json.dumps(said | {'num_classes': 3}))
    _, report = load_weights(path, ARCH)
    assert (report.identity.name, report.identity.mean) == (ARCH, (0.1,) * 3)
    assert not report.unsettled


def test_a_tag_that_was_asked_for_is_no_evidence(tags, plain, tmp_path):
    head = {'head.weight': np.zeros((1000, 16), np.float32)}
    path = write(tmp_path / 'own.pth', plain, **head)
    tree, report = load_weights(path, f'{ARCH}.augreg_in21k')
    identity = report.identity
    assert (identity.asked, identity.name) == (f'{ARCH}.augreg_in21k', ARCH)
    assert 'a head of 1000 classes' in report.notes[0]
    save_converted(tmp_path / 'own.safetensors', tree, identity)
    assert load_weights(tmp_path / 'own.safetensors', ARCH)[1].identity.label == identity.asked


@pytest.mark.parametrize(
    'overrides',
    [
        {'norm_epsilon': float('nan')},
        {'norm_epsilon': 'x'},
        {'norm_epsilon': -1.0},
        {'image_size': 100000},
        {'num_heads': 0},
        {'num_heads': 2.5},
        {'depth': 10**9},
        {'qkv_bias': 'no'},
        {'colour': 1},
    ],
)
def test_an_identity_that_makes_no_sense_is_refused(overrides, tags, tmp_path):
    tree, report = load_weights(GOLDEN, f'{ARCH}.augreg_in21k')
    path = tmp_path / 'own.safetensors'
    save_converted(path, tree, replace(report.identity, overrides=tuple(overrides.items())))
    with pytest.raises(ValueError, match='its identity is damaged'):
        load_weights(path, ARCH)


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e200])
def test_weights_that_are_not_finite_are_refused_by_name(value, tags, plain, tmp_path):
    broken = plain['blocks.1.mlp.fc1.bias'].astype(np.float64)
    broken[3] = value
    path = write(tmp_path / 'own.pth', plain, **{'blocks.1.mlp.fc1.bias': broken})
    with pytest.raises(ValueError, match=r'blocks\.1\.mlp\.fc1\.bias \(block_01/mlp/fc1/bias\)'):
        load_weights(path, f'{ARCH}.dino')


def test_compiled_networks_are_read(tags, plain, tmp_path):
    want = flatten(load_weights(write(tmp_path / 'a', plain), f'{ARCH}.dino')[0])
    for prefix in ('_orig_mod.', 'backbone._orig_mod.'):
        path = write(tmp_path / 'b', {f'{prefix}{name}': value for name, value in plain.items()})
        tree, report = load_weights(path, f'{ARCH}.dino')
        assert 'torch.compile' in report.notes[0]
        for name, leaf in flatten(tree).items():
            np.testing.assert_array_equal(leaf, want[name])
