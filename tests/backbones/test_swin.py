from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tuned_swin import CONFIG, IMAGES, SPEC, backbone_of, features

from jax_prompt.backbones.architectures import ARCHITECTURES
from jax_prompt.backbones.stack import run_block
from jax_prompt.backbones.swin import Swin, adapt
from jax_prompt.backbones.swin_config import SwinConfig
from jax_prompt.core.spec import FEATURES, IMAGE, Cut
from jax_prompt.core.tree import segment_name, stack_layers, unstack_layers

STARTS = CONFIG.starts


@pytest.fixture(scope='module')
def params():
    return backbone_of()


@pytest.fixture(scope='module')
def want(params):
    return features(CONFIG, params)


def _cut(params, seams):
    return stack_layers(unstack_layers(params), (*STARTS, *seams))


def test_seams_and_unrolled_blocks_change_nothing(params, want):
    """A seam between a plain and a shifted block too."""
    got = features(CONFIG, _cut(params, (1, 3)), seams=(1, 3))
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(features(replace(CONFIG, scan=False), params), want, atol=1e-5)


@pytest.mark.parametrize(('block', 'shape'), [(0, (64, 8)), (1, (64, 8)), (2, (16, 16))])
def test_running_to_a_cut_and_on_equals_running_through(params, want, block, shape):
    """The tokens that enter a stage are merged ones; neither part needs the other's weights."""
    swin, cut = Swin(CONFIG, (1,)), _cut(params, (1,))
    order = ['patch_embed', 'patch_norm', 'blocks_00_01', 'blocks_01_02', 'merge_02']
    order += ['blocks_02_04', 'norm']
    assert sorted(order) == sorted(cut)
    place = {0: 2, 1: 3, 2: 5}[block]
    early, late = ({k: cut[k] for k in part} for part in (order[:place], order[place:]))
    tokens = swin.apply({'params': early}, IMAGES, stop=Cut(block))
    assert tokens.shape == (3, *shape)
    got = swin.apply({'params': late}, tokens, start=Cut(block))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_cuts_off_the_seams_and_wrong_images_are_named(params):
    with pytest.raises(ValueError, match=r'block 3 is no seam of this Swin; seams: \[0, 2\]'):
        Swin(CONFIG).apply({'params': params}, IMAGES, stop=Cut(3))
    with pytest.raises(ValueError, match=r'\(1, 20, 20, 3\)'):
        Swin(CONFIG).apply({'params': params}, jnp.zeros((1, 20, 20, 3)))


def test_single_blocks_add_up_to_a_stage(params):
    """Both kinds of windows, by an index that is traced."""
    step = jax.jit(run_block, static_argnums=(0, 4))
    swin = Swin(CONFIG, (3,))
    tokens = swin.apply({'params': _cut(params, (3,))}, IMAGES, stop=Cut(2))
    first = step(swin, params[segment_name(2, 4)], tokens, 0, 2)
    want = swin.apply({'params': _cut(params, (3,))}, IMAGES, stop=Cut(3))
    np.testing.assert_allclose(first, want, atol=1e-5)
    tokens = swin.apply({'params': _cut(params, (3,))}, IMAGES, stop=Cut(0))
    plain, shifted = (step(swin, params[segment_name(0, 2)], tokens, i, 0) for i in (0, 1))
    assert jnp.abs(plain - shifted).max() > 1e-2


@partial(jax.jit, static_argnums=1)
@jax.grad
def _gradients(params, config):
    return jnp.sum(Swin(config).apply({'params': params}, IMAGES) ** 2)


@pytest.mark.parametrize('remat', ['save', 'full'])
def test_rematerialisation_changes_no_gradient(params, remat):
    want = _gradients(params, CONFIG)
    got = _gradients(params, replace(CONFIG, remat=remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), got, want)
    assert all(np.abs(np.asarray(leaf)).max() > 0 for leaf in jax.tree.leaves(want))


@pytest.mark.parametrize(('size', 'window'), [(32, 4), (40, 4), (30, 3), (32, 8), (36, 16)])
def test_any_image_and_window_size_gives_features_of_one_image_at_a_time(size, window):
    """Where patches, windows or merging do not divide, they are padded."""
    config = replace(CONFIG, image_size=size, window=window)
    images = np.random.default_rng(2).normal(size=(2, size, size, 3)).astype(np.float32)
    own = backbone_of(config)
    both = features(config, own, images=images)
    assert both.shape == (2, 16) and np.isfinite(both).all()
    images[1] = np.nan
    np.testing.assert_allclose(features(config, own, images=images)[0], both[0], atol=1e-5)


def test_bfloat16_products_stay_near_float32(params, want):
    got = features(replace(CONFIG, dtype='bfloat16'), params)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=0.1)
    assert np.abs(np.asarray(got - want)).max() > 0


def test_drop_path_acts_in_training_only(params, want):
    config = replace(CONFIG, drop_path_rate=0.9)
    still = features(config, params, key=jax.random.key(0))
    np.testing.assert_allclose(still, want, atol=1e-6)
    trained = features(config, params, key=jax.random.key(0), train=True)
    assert np.abs(np.asarray(trained - want)).max() > 1e-3


def test_position_biases_are_resized_for_another_window(params, want):
    tree = jax.tree.map(np.asarray, unstack_layers(params))
    same = adapt(tree, CONFIG)
    np.testing.assert_allclose(features(CONFIG, same), want, atol=1e-6)
    config = replace(CONFIG, image_size=56, window=7)
    bigger = adapt(tree, config)
    assert bigger[segment_name(0, 2)]['attn']['relative_bias'].shape == (2, 169, 1)
    images = np.zeros((1, 56, 56, 3), np.float32)
    assert features(config, bigger, images=images).shape == (1, 16)


def test_the_spec_says_what_stages_are():
    assert SPEC.stage_of(1) == ('stage_00', 0) and SPEC.stage_of(2) == ('stage_01', 2)
    runs = SPEC.runs()
    assert [(r.width, r.num_layers, r.num_patches, r.num_heads) for r in runs.values()] == [
        (8, 2, 64, 1),
        (16, 2, 16, 2),
    ]
    assert {n: r.num_layers for n, r in SPEC.runs(range(1, 3)).items()} == {
        'stage_00': 1,
        'stage_01': 1,
    }
    assert [*SPEC.runs(range(2, 4))] == ['stage_01']
    swin = ARCHITECTURES['swin_b_224']
    assert [swin.grid_of(i) for i in range(4)] == [56, 28, 14, 7]
    assert swin.spec().feature_dim == 1024 and swin.spec().num_layers == 24
    assert ARCHITECTURES['swin_l_384'].window_of(3) == 12
    assert IMAGE < Cut(0) < FEATURES


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'pool': 'cls'}, "pool is 'cls'; allowed: .'mean_prompts', 'mean'"),
        ({'depths': (2,)}, 'one positive number for each stage'),
        ({'num_heads': (1, 3)}, 'stage 1 has width 16, .* its 3 heads'),
        ({'window': 0}, 'window is 0; at least 1'),
    ],
)
def test_wrong_configurations_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)
    assert SwinConfig(8, [2, 2], [1, 2], 4, 4, 32) == CONFIG  # as a saved identity has it
