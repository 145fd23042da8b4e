"""The table of backbones is whole, and its errors say what to do."""

import pytest

from jax_prompt.backbones import table
from jax_prompt.backbones.architectures import ARCHITECTURES
from jax_prompt.backbones.table import TABLE, find_weights, lookup, tags
from jax_prompt.core import colour
from jax_prompt.core.tree import count
from jax_prompt.weights.families import FAMILIES


@pytest.mark.parametrize('name', TABLE)
def test_entries(name):
    entry = TABLE[name]
    assert entry.name == name and entry.arch in ARCHITECTURES
    assert entry.format in FAMILIES[entry.config.family].formats
    assert entry.packaged or entry.url.startswith('https://')
    assert min(entry.std) > 0
    assert entry.sha256 is None or len(entry.sha256) == 64


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_an_architecture_alone_means_its_first_tag(arch):
    assert lookup(arch) is TABLE[tags(arch)[0]]


def test_facts_of_some_weights():
    """What the sources say, and what is easily mistaken."""
    assert lookup('vit_ti16_224').name == 'vit_ti16_224.augreg_in21k_ft_in1k'
    assert lookup('vit_b16_224.google_in21k').mean == colour.HALF
    assert lookup('vit_b16_224.mae').mean == colour.IMAGENET_MEAN
    assert lookup('vit_b16_224.mae').config.norm_after_pool
    assert lookup('vit_s16_224.moco_v3').config.num_heads == 12
    assert lookup('vit_s16_224.dino').config.num_heads == 6
    assert lookup('vit_b16_224.hf_in21k').config.norm_epsilon == 1e-12
    assert lookup('vit_b14_reg4_dinov2').config.num_registers == 4
    assert lookup('vit_b14_dinov2').config.grid == 37


# Parameters of the feature extractors, from the papers' tables or by the closed form.
SIZES = {'vit_ti16_224': 5_524_416, 'vit_s16_224': 21_665_664, 'vit_b16_224': 85_798_656}
SIZES |= {'vit_l16_224': 303_301_632, 'vit_h14_224': 630_764_800}


SIZES |= {'swin_t_224': 28_288_354 - 769_000, 'swin_s_224': 49_606_258 - 769_000}  # torchvision
SIZES |= {'swin_b_224': 87_768_224 - 1_025_000}  # without their heads of 1000 classes


@pytest.mark.parametrize('arch', SIZES)
def test_number_of_parameters(arch):
    import jax
    import jax.numpy as jnp

    from jax_prompt.backbones.families import family_of

    config = ARCHITECTURES[arch]
    images = jnp.zeros((1, config.image_size, config.image_size, 3))
    shapes = jax.eval_shape(family_of(config).make(config, ()).init, jax.random.key(0), images)
    assert count(shapes) == SIZES[arch]


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('vit_b16', "no backbone 'vit_b16'; nearest: .*vit_b16_224"),
        ('vit_b16_224.mea', r"no tag 'mea'; allowed: \['augreg_in21k'"),
        ('zzz', 'nearest: none; architectures'),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        lookup(name)


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'mae_pretrain_vit_base\.pth') as caught:
        find_weights('vit_b16_224.mae')
    assert 'https://' in str(caught.value) and '--config.weights=' in str(caught.value)
    with pytest.raises(FileNotFoundError, match=f'no weights at {tmp_path}/w.npz'):
        find_weights('vit_b16_224', tmp_path / 'w.npz')
    (tmp_path / 'w.npz').write_bytes(b'x')
    assert find_weights('vit_b16_224', tmp_path / 'w.npz') == tmp_path / 'w.npz'


def test_weights_that_ship_with_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(table, '__file__', str(tmp_path / 'table.py'))
    with pytest.raises(FileNotFoundError, match='install the package again'):
        find_weights('vit_micro')
    (tmp_path / 'vit_micro.safetensors').write_bytes(b'x')
    assert find_weights('vit_micro') == tmp_path / 'vit_micro.safetensors'
