from dataclasses import replace

import jax
import numpy as np
import pytest
from tuned_convnext import CONFIG, IMAGES, stacked

from jax_prompt.backbones.architectures import ARCHITECTURES
from jax_prompt.backbones.convnext import ConvNeXt
from jax_prompt.backbones.convnext_config import ConvNeXtConfig
from jax_prompt.backbones.families import leaf_shapes
from jax_prompt.core.spec import Cut


def features(config, params, seams=(), images=IMAGES, **options):
    """Computes the features [B, D] of the images."""
    run = lambda params, images: ConvNeXt(config, seams).apply(  # noqa: E731
        {'params': params}, images, **options
    )
    return jax.jit(run)(params, images)


@pytest.fixture(scope='module')
def want():
    return features(CONFIG, stacked())


def test_seams_and_unrolled_blocks_change_nothing(want):
    got = features(replace(CONFIG, scan=False), stacked((1,)), (1,))
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    ('block', 'shape', 'early'),
    [
        (1, (8, 8, 8), {'patch_embed', 'patch_norm', 'blocks_00_01'}),
        (2, (4, 4, 16), {'patch_embed', 'patch_norm', 'blocks_00_01', 'blocks_01_02', 'down_02'}),
    ],
)
def test_running_to_a_cut_and_on_equals_running_through(want, block, shape, early):
    """Neither part needs the other's weights."""
    params = stacked((1,))
    first = {name: params[name] for name in early}
    maps = features(CONFIG, first, (1,), stop=Cut(block))
    assert maps.shape == (3, *shape)
    second = {name: params[name] for name in params.keys() - early}
    got = features(CONFIG, second, (1,), maps, start=Cut(block))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_recomputed_blocks_and_bfloat16(want):
    def gradient(config):
        loss = lambda params: (ConvNeXt(config).apply({'params': params}, IMAGES[:1]) ** 2).sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(stacked())

    plain, again = gradient(CONFIG), gradient(replace(CONFIG, remat='full'))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    half = features(replace(CONFIG, dtype='bfloat16'), stacked())
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, want, atol=0.1)
    assert np.abs(half - want).max() > 0


def test_drop_path_leaves_out_whole_branches(want):
    config, options = replace(CONFIG, drop_path_rate=0.5), {'key': jax.random.key(0)}
    dropped = features(config, stacked(), **options, train=True)
    assert np.abs(dropped - want).max() > 1e-3
    np.testing.assert_array_equal(features(config, stacked(), **options), want)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'depths': (0, 2)}, 'depths is'),
        ({'image_size': 30}, 'image_size is 30; allowed: multiples of 4'),
        ({'image_size': 4}, 'image_size is 4; .* at least 8'),
        ({'remat': 'save'}, "remat is 'save'"),
    ],
)
def test_wrong_configurations_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)
    assert ConvNeXtConfig(8, [2, 2], 32) == CONFIG  # as a saved identity has it


def test_a_convnext_has_no_patch_tokens():
    with pytest.raises(ValueError, match='a ConvNeXt has no patch embeddings'):
        features(CONFIG, stacked(), bare_patches=True)


# Counts of torchvision's files, less their heads of 1000 classes.
@pytest.mark.parametrize(
    ('name', 'size'),
    [
        ('convnext_t_224', 28_589_128 - 769_000),
        ('convnext_s_224', 50_223_688 - 769_000),
        ('convnext_b_224', 88_591_464 - 1_025_000),
    ],
)
def test_published_sizes(name, size):
    assert sum(np.prod(shape) for shape in leaf_shapes(ARCHITECTURES[name]).values()) == size
