from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tuned_resnet import IMAGES, stacked, weights_of

from jax_prompt.backbones.architectures import ARCHITECTURES
from jax_prompt.backbones.resnet import ResNet
from jax_prompt.backbones.resnet_config import ResNetConfig
from jax_prompt.backbones.stack import adapt
from jax_prompt.core.spec import Cut
from jax_prompt.core.tree import count, flatten, stack_layers, unstack_layers
from jax_prompt.core.tuner import Tuner

CONFIG = ResNetConfig('bottleneck', (2, 2), 32, width=4)
DEEP = replace(CONFIG, depths=(4, 1))  # a run of three like blocks
BASIC = ResNetConfig('basic', (2, 2), 16, width=4, stem='small')


def features(config, params, images=IMAGES, seams=(), **options):
    """Computes the features [B, D] of the images."""
    run = lambda params, images: ResNet(config, seams).apply(  # noqa: E731
        {'params': params}, images, **options
    )
    return jax.jit(run)(params, images)


@pytest.fixture(scope='module')
def want():
    return features(DEEP, stacked(DEEP))


def test_seams_and_unrolled_blocks_change_nothing(want):
    got = features(DEEP, stacked(DEEP, (2,)), seams=(2,))
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(features(replace(DEEP, scan=False), stacked(DEEP)), want, atol=1e-5)


@pytest.mark.parametrize(
    ('block', 'shape', 'place'),
    [(0, (8, 8, 4), 2), (1, (8, 8, 16), 3), (3, (8, 8, 16), 4), (4, (8, 8, 16), 5)],
)
def test_running_to_a_cut_and_on_equals_running_through(want, block, shape, place):
    """Neither part needs the other's weights."""
    net, cut = ResNet(DEEP, (3,)), stacked(DEEP, (3,))
    order = ['stem_conv', 'stem_norm', 'blocks_00_01', 'blocks_01_03', 'blocks_03_04']
    order.append('blocks_04_05')
    assert sorted(order) == sorted(cut)
    early, late = ({k: cut[k] for k in part} for part in (order[:place], order[place:]))
    maps = net.apply({'params': early}, IMAGES, stop=Cut(block))
    assert maps.shape == (3, *shape)
    got = net.apply({'params': late}, maps, start=Cut(block))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_cuts_off_the_seams_and_wrong_inputs_are_named():
    net, params = ResNet(DEEP), {'params': stacked(DEEP)}
    with pytest.raises(ValueError, match=r'block 2 is no seam of this ResNet; seams: \[0, 1, 4'):
        net.apply(params, IMAGES, stop=Cut(2))
    with pytest.raises(ValueError, match=r'\(1, 20, 20, 3\); this ResNet takes \[B, 32, 32, 3\]'):
        net.apply(params, jnp.zeros((1, 20, 20, 3)))
    with pytest.raises(ValueError, match='no patch embeddings'):
        net.apply(params, IMAGES, bare_patches=True)


@pytest.mark.parametrize('config', [DEEP, BASIC])
def test_rematerialisation_changes_no_gradient(config):
    size = config.image_size

    def loss(params, config):
        return jnp.sum(ResNet(config).apply({'params': params}, IMAGES[:, :size, :size]) ** 2)

    grads, params = jax.jit(jax.grad(loss), static_argnums=1), stacked(config)
    want = grads(params, config)
    got = grads(params, replace(config, remat='full'))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), got, want)
    assert all(np.abs(np.asarray(leaf)).max() > 0 for leaf in jax.tree.leaves(want))


@pytest.mark.parametrize('size', [32, 33, 48, 31])
def test_any_image_size_gives_features_of_one_image_at_a_time(size):
    config = replace(CONFIG, image_size=size)
    images = np.random.default_rng(2).normal(size=(2, size, size, 3)).astype(np.float32)
    both = features(config, stacked(CONFIG), images)
    assert both.shape == (2, 32) and np.isfinite(both).all()
    images[1] = np.nan
    np.testing.assert_allclose(features(config, stacked(CONFIG), images)[0], both[0], atol=1e-5)
    maps = ResNet(config).apply({'params': stacked(CONFIG)}, images, stop=Cut(2))
    assert maps.shape[1:3] == (config.grid_of(0),) * 2
    assert config.spec().num_patches == config.grid_of(0) ** 2


def test_a_tuner_may_enlarge_the_image():
    class Border(Tuner):
        def image(self, place, image):
            assert place.image is image
            return jnp.pad(image, ((0, 0), (3, 3), (3, 3), (0, 0)))

    got = ResNet(CONFIG).apply({'params': stacked(CONFIG)}, IMAGES, Border())
    larger = np.pad(IMAGES, ((0, 0), (3, 3), (3, 3), (0, 0)))
    np.testing.assert_allclose(
        got, features(replace(CONFIG, image_size=38), stacked(CONFIG), larger), atol=1e-5
    )


@pytest.mark.parametrize('config', [CONFIG, BASIC])
def test_every_site_of_the_spec_is_called_with_its_widths(config):
    seen = {}

    class Watch(Tuner):
        def after(self, place, site, x, y):
            inside = site in ('stem_conv', 'stem_norm')
            seen[site if inside else (place.stage_start, site)] = (x.shape, y.shape)
            return y

    size, spec = config.image_size, config.spec()
    images = jnp.asarray(IMAGES[:, :size, :size])
    variables = {'params': stacked(config)}
    jax.eval_shape(lambda x: ResNet(config).apply(variables, x, Watch()), images)
    sites = dict(spec.outer)
    for stage in spec.stages:
        sites |= {(stage.first, name): site for name, site in stage.sites.items()}
        assert seen.pop((stage.first, 'block'))[1][-1] == stage.width
        side = seen[stage.first, 'norm2'][1][1]
        assert side**2 == stage.num_patches
    assert seen.keys() == sites.keys()
    for name, site in sites.items():
        x, y = seen[name]
        assert (x[-1], y[-1]) == (site.inputs, site.outputs), name
        assert y[1] == -(-x[1] // site.stride), name
    flat = flatten(weights_of(config))
    for stage in spec.stages:
        for name, site in stage.sites.items():
            if 'conv' in name:
                shape = (site.kernel, site.kernel, site.inputs, site.outputs)
                assert flat[f'block_{stage.first:02d}/{site.weights}/kernel'].shape == shape


def test_bfloat16_stays_near_float32():
    want = features(CONFIG, stacked(CONFIG))
    got = features(replace(CONFIG, dtype='bfloat16'), stacked(CONFIG))
    assert got.dtype == jnp.float32
    scale = np.abs(np.asarray(want)).max()
    np.testing.assert_allclose(got / scale, want / scale, atol=0.05)
    assert np.abs(np.asarray(got - want)).max() > 0


@pytest.mark.parametrize('config', [CONFIG, BASIC])
def test_frozen_batch_norms_are_the_same_in_training(config):
    size = config.image_size
    images = IMAGES[:, :size, :size]
    want = features(config, stacked(config), images)
    np.testing.assert_array_equal(features(config, stacked(config), images, train=True), want)
    by_batch = replace(config, batch_statistics=True)
    np.testing.assert_array_equal(features(by_batch, stacked(config), images), want)
    trained = features(by_batch, stacked(config), images, train=True)
    assert np.abs(np.asarray(trained - want)).max() > 1e-2


def test_a_checkpoints_form_and_the_running_one_are_the_same_weights():
    tree = adapt(weights_of(CONFIG), CONFIG, (1,))
    flat = flatten(unstack_layers(tree))
    assert flat.keys() == flatten(weights_of(CONFIG)).keys()
    kernel = weights_of(CONFIG)['block_03']['conv2']['kernel']
    np.testing.assert_array_equal(flat['block_03/conv2/kernel'], kernel)
    like = jax.eval_shape(ResNet(CONFIG).init, jax.random.key(0), jnp.asarray(IMAGES))['params']
    shapes = jax.tree.map(jnp.shape, stack_layers(weights_of(CONFIG), CONFIG.seams))
    assert shapes == jax.tree.map(jnp.shape, like)


def test_the_spec_says_what_runs_of_like_blocks_are():
    spec = ARCHITECTURES['resnet50'].spec()
    assert [(s.first, s.num_layers, s.width, s.num_patches) for s in spec.stages] == [
        (0, 1, 256, 3136),
        (1, 2, 256, 3136),
        (3, 1, 512, 784),
        (4, 3, 512, 784),
        (7, 1, 1024, 196),
        (8, 5, 1024, 196),
        (13, 1, 2048, 49),
        (14, 2, 2048, 49),
    ]
    assert (spec.feature_dim, spec.num_heads, spec.num_layers) == (2048, 0, 16)
    # The first stage of basic blocks neither widens nor shrinks: one run.
    assert ARCHITECTURES['resnet34'].seams == (0, 3, 4, 7, 8, 13, 14)
    assert ARCHITECTURES['resnet18'].seams == (0, 2, 3, 4, 5, 6, 7)
    assert 'down_conv' in spec.sites and 'down_conv' not in spec.stages[1].sites
    assert not spec.trained_from('stem_conv', 0)
    assert CONFIG.spec().stages[0].sites['conv2'].kernel == 3


@pytest.mark.parametrize(
    ('arch', 'parameters'),
    [('resnet18', 11_176_512), ('resnet50', 23_508_032), ('resnet152', 58_143_808)],
)
def test_as_many_parameters_as_torchvision_has_below_its_head(arch, parameters):
    init = ResNet(ARCHITECTURES[arch]).init
    tree = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))['params']
    assert count(tree) == parameters


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'block': 'wide'}, "block is 'wide'; allowed: .'basic', 'bottleneck'"),
        ({'pool': 'cls'}, "pool is 'cls'; allowed: .'mean'"),
        ({'remat': 'save'}, "remat is 'save'; allowed: .'none', 'full'"),
        ({'depths': (2, 0)}, 'one positive number for each stage'),
        ({'width': 0}, 'width is 0; at least 1'),
        ({'momentum': 0.0}, r'momentum is 0.0; allowed: \(0, 1\]'),
    ],
)
def test_wrong_configurations_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)
    assert ResNetConfig('bottleneck', [2, 2], 32, width=4) == CONFIG  # as a saved identity has it
