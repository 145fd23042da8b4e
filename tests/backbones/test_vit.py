import re
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import drawn

from jax_prompt.backbones.stack import run_block
from jax_prompt.backbones.vit import ViT, adapt
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.spec import Cut
from jax_prompt.core.tree import (
    flatten,
    segment_name,
    stack_layers,
    unflatten,
    unstack_layers,
)
from jax_prompt.core.tuner import Tuner
from jax_prompt.tuners.vpt import VPT

CONFIG = ViTConfig(32, 4, 2, 64, 4, 16)


@pytest.fixture(scope='module')
def images():
    return np.random.default_rng(1).standard_normal((3, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def params(images):
    return drawn(ViT(CONFIG).init, jax.random.key(0), images)['params']


def _features(config, params, images, **options):
    return ViT(config, **options.pop('module', {})).apply({'params': params}, images, **options)


@pytest.mark.parametrize('seams', [(2,), (1, 3)])
def test_seams_and_unrolled_blocks_change_nothing(params, images, seams):
    want = _features(CONFIG, params, images)
    cut = stack_layers(unstack_layers(params), (*CONFIG.seams, *seams))
    got = _features(CONFIG, cut, images, module={'seams': seams})
    np.testing.assert_allclose(got, want, atol=1e-5)
    got = _features(replace(CONFIG, scan=False), params, images)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_running_to_a_cut_and_on_equals_running_through(params, images):
    want = _features(CONFIG, params, images)
    cut = stack_layers(unstack_layers(params), (2, 3))
    vit = ViT(CONFIG, (2,))
    tokens = vit.apply({'params': cut}, images, stop=Cut(2))
    np.testing.assert_allclose(vit.apply({'params': cut}, tokens, start=Cut(2)), want, atol=1e-5)
    with pytest.raises(ValueError, match='no seam'):
        vit.apply({'params': cut}, images, stop=Cut(1))


def test_single_blocks_add_up_to_the_network(params, images):
    blocks = stack_layers(unstack_layers(params))[segment_name(0, 4)]
    tokens = _features(CONFIG, params, images, stop=Cut(0))
    for layer in range(4):
        tokens = run_block(ViT(CONFIG), blocks, tokens, layer)
    whole = ViT(CONFIG).apply({'params': params}, images, stop=Cut(3))
    last = run_block(ViT(CONFIG), blocks, whole, 3)
    np.testing.assert_allclose(tokens, last, atol=1e-5)


def test_the_last_block_computes_the_class_token_alone(params, images):
    shapes = {}

    class Seen(Tuner):
        def after(self, place, site, x, y):
            shapes[site] = (x.shape[1], y.shape[1])
            return y

    ViT(replace(CONFIG, scan=False)).apply({'params': params}, images, Seen(), {})
    assert shapes['ln1'] == shapes['qkv'] == (17, 17)
    later = ('proj', 'attn', 'ln2', 'fc1', 'mlp', 'block')
    assert {shapes[site] for site in later} == {(1, 1)}
    blocks = stack_layers(unstack_layers(params))[segment_name(0, 4)]
    tokens = ViT(CONFIG).apply({'params': params}, images, stop=Cut(3))
    whole = run_block(ViT(CONFIG), blocks, tokens, 3)[:, 0]  # all tokens computed
    norm = params['norm']
    x = np.asarray(whole, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    got = _features(CONFIG, params, images)
    np.testing.assert_allclose(got, x * norm['scale'] + norm['bias'], atol=1e-5)


@pytest.fixture(scope='module')
def gradients(params, images):
    @cache
    def compute(config):
        loss = lambda params: jnp.sum(ViT(config).apply({'params': params}, images) ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    return compute


@pytest.mark.parametrize('remat', ['save', 'full'])
def test_rematerialisation_changes_no_gradient(gradients, remat):
    want, got = gradients(CONFIG), gradients(replace(CONFIG, remat=remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), got, want)


def test_rematerialisation_takes_less_memory():
    config = ViTConfig(64, 6, 4, 256, 4, 32)
    images = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(ViT(config).init, jax.random.key(0), images)['params']

    def temporary(remat):
        vit = ViT(replace(config, remat=remat))
        lead = lambda x, p: jnp.sum(vit.apply({'params': p}, x))  # noqa: E731
        compiled = jax.jit(jax.grad(lead)).lower(images, params).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    sizes = [temporary(remat) for remat in ('none', 'save', 'full')]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize(
    'change',
    [
        {'pool': 'mean'},
        {'pool': 'mean', 'class_token': False, 'class_position': False},
        {'norm_after_pool': True},
        {'num_registers': 2, 'layer_scale': True},
        {'class_position': False},
        {'qkv_bias': False},
    ],
)
def test_variants_give_finite_features_of_one_image_at_a_time(images, change):
    config = replace(CONFIG, **change)
    shapes = jax.eval_shape(ViT(config).init, jax.random.key(0), images)['params']
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: rng.normal(0, 0.2, a.shape).astype(np.float32), shapes)
    both = _features(config, params, images)
    assert both.shape == (3, 32) and np.isfinite(both).all()
    np.testing.assert_allclose(both[:1], _features(config, params, images[:1]), atol=1e-5)


def test_mean_pooling_takes_patch_tokens_only(params, images):
    config = replace(CONFIG, pool='mean')
    blocks = stack_layers(unstack_layers(params))[segment_name(0, 4)]
    tokens = _features(config, params, images, stop=Cut(0))
    for layer in range(4):
        tokens = run_block(ViT(config), blocks, tokens, layer)
    scale, bias = params['norm']['scale'], params['norm']['bias']
    x = np.asarray(tokens[:, 1:], np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    want = (x * scale + bias).mean(axis=1)
    np.testing.assert_allclose(_features(config, params, images), want, atol=1e-5)


def test_bfloat16_products_stay_near_float32(params, images):
    want = _features(CONFIG, params, images)
    got = _features(replace(CONFIG, dtype='bfloat16'), params, images)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=0.1)
    assert np.abs(np.asarray(got - want)).max() > 0


def test_drop_path_acts_in_training_only(params, images):
    config = replace(CONFIG, drop_path_rate=0.9)
    want = _features(CONFIG, params, images)
    np.testing.assert_array_equal(_features(config, params, images, key=jax.random.key(0)), want)
    trained = _features(config, params, images, key=jax.random.key(0), train=True)
    assert np.abs(np.asarray(trained - want)).max() > 1e-3


def test_patch_drop_leaves_tokens_out_in_training_only(params, images):
    config = replace(CONFIG, patch_drop_rate=0.5)
    want = _features(CONFIG, params, images)
    np.testing.assert_array_equal(_features(config, params, images), want)
    key = jax.random.key(0)
    tokens = _features(config, params, images, key=key, train=True, stop=Cut(0))
    whole = _features(CONFIG, params, images, stop=Cut(0))
    assert tokens.shape == (3, 1 + 8, 32)
    for image in range(3):  # each kept token is one of the image's own
        distance = np.abs(np.asarray(tokens[image, :, None] - whole[image, None])).max(-1)
        assert (distance.min(axis=1) == 0).all()


def test_positions_are_resized_for_another_image_size(params):
    tree = jax.tree.map(np.asarray, unstack_layers(params))
    config = replace(CONFIG, image_size=24)
    bigger = adapt(tree, config)
    assert bigger['pos_embed'].shape == (1, 1 + 36, 32)
    np.testing.assert_array_equal(bigger['pos_embed'][:, 0], tree['pos_embed'][:, 0])
    assert ViT(config).apply({'params': bigger}, jnp.zeros((1, 24, 24, 3))).shape == (1, 32)


def test_wrong_configurations_and_images_are_named(params):
    with pytest.raises(ValueError, match=r'allowed: .*mean'):
        replace(CONFIG, pool='max')
    with pytest.raises(ValueError, match='take 12 or 16'):
        replace(CONFIG, image_size=15)
    with pytest.raises(ValueError, match='3 heads'):
        replace(CONFIG, num_heads=3)
    with pytest.raises(ValueError, match='class token'):
        replace(CONFIG, class_token=False)
    with pytest.raises(ValueError, match=r'\(1, 20, 20, 3\)'):
        _features(CONFIG, params, jnp.zeros((1, 20, 20, 3)))


@pytest.mark.parametrize('after', [False, True])
def test_prompts_are_not_pooled_unless_asked(params, images, after):
    """Where blocks change no token, the patches' mean does not know of prompts."""
    config = replace(CONFIG, pool='mean', norm_after_pool=after)
    still = flatten(params)
    still = {
        path: np.zeros_like(leaf) if re.search(r'/(proj|fc2)/', path) else leaf
        for path, leaf in still.items()
    }
    tuner = VPT(num_prompts=3, deep=False)
    prompts = {'shared': {'prompts': np.float32(5.0 + np.arange(96.0).reshape(3, 32) % 7)}}
    want = _features(config, unflatten(still), images)
    got = _features(config, unflatten(still), images, tuner=tuner, tuner_params=prompts)
    np.testing.assert_allclose(got, want, atol=1e-6)
    config = replace(config, pool='mean_prompts')
    other = _features(config, unflatten(still), images, tuner=tuner, tuner_params=prompts)
    assert np.abs(other - want).max() > 0.1
