"""Pixel prompts: their start, their place, and what they refuse."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import noisy
from tuned_vit import CONFIG, IMAGES, SPEC, backbone_of, features, largest

from jax_prompt.backbones.resnet_config import ResNetConfig
from jax_prompt.backbones.swin_config import SwinConfig
from jax_prompt.core.tree import count
from jax_prompt.core.tuner import Place
from jax_prompt.nn.convolution import convolve_like
from jax_prompt.tuners.pixel import BorderPrompt, ChannelPrompt

RESNET = ResNetConfig('basic', (1, 1), 16, width=4).spec()
SMALL = ResNetConfig('basic', (1, 1), 16, width=4, stem='small').spec()
BORDER = np.float32([(0.0 - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))])


def _init(tuner, spec):
    return tuner.init(jax.random.key(0), spec)['shared']


@pytest.mark.parametrize(('spec', 'border'), [(RESNET, 'auto'), (RESNET, 'inside'), (SPEC, 'auto')])
def test_the_border_lies_around_the_image(spec, border):
    shared = _init(BorderPrompt(3, border), spec)
    outer = 22 if spec is RESNET and border == 'auto' else 16
    assert count(shared) == 3 * (outer**2 - (outer - 6) ** 2)
    assert all(0.0 <= leaf.min() < 0.1 and 0.9 < leaf.max() < 1.0 for leaf in shared.values())
    dark = jax.tree.map(jnp.zeros_like, shared)
    got = BorderPrompt(3, border).image(Place(shared=dark), jnp.asarray(IMAGES))
    assert got.shape == (2, outer, outer, 3)
    inner = got[:, 3:-3, 3:-3]
    rim = np.array(got)
    rim[:, 3:-3, 3:-3] = BORDER
    np.testing.assert_allclose(rim, np.broadcast_to(BORDER, rim.shape), rtol=1e-5)
    if outer == 22:
        np.testing.assert_array_equal(inner, IMAGES)
    else:
        flat = BorderPrompt(3, border).image(Place(shared=dark), jnp.full((1, 16, 16, 3), 0.5))
        np.testing.assert_allclose(flat[:, 3:-3, 3:-3], 0.5, rtol=1e-5)


@pytest.mark.parametrize(('spec', 'k'), [(RESNET, 7), (SMALL, 3), (SPEC, 4)])
def test_channels_start_as_xavier_of_the_widened_kernel(spec, k):
    shared = _init(ChannelPrompt(5), spec)
    outputs = 32 if spec is SPEC else 4
    assert shared['maps'].shape == (16, 16, 5) and shared['maps'].min() >= 0.0
    assert shared['kernel'].shape == (k, k, 5, outputs)
    bound = (6.0 / (k * k * (8 + outputs))) ** 0.5
    assert 0.95 * bound < np.abs(shared['kernel']).max() <= bound


def test_channels_of_a_vit_are_those_of_a_wider_patch_embedding():
    tuner, backbone = ChannelPrompt(2), backbone_of()
    params = noisy(tuner.init(jax.random.key(0), SPEC))
    got = features(CONFIG, backbone, tuner, params)
    maps = (params['shared']['maps'] - 0.449) / 0.226
    extra = jax.lax.conv_general_dilated(
        maps[None],
        params['shared']['kernel'],
        (4, 4),
        'VALID',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    positions = jnp.asarray(backbone['pos_embed']).at[:, 1:].add(extra.reshape(1, 16, 32))
    want = features(CONFIG, {**backbone, 'pos_embed': positions})
    assert largest(got, want) < 1e-5


def test_channels_of_a_padded_image_end_with_it():
    """A Swin pads an image to whole patches."""
    spec = SwinConfig(8, (1,), (1,), 4, 4, 14).spec()
    shared = _init(ChannelPrompt(1), spec)
    x, y = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 16, 8))
    got = ChannelPrompt(1).after(Place(shared=shared), 'patch_embed', x, y)
    dark = jnp.pad(shared['maps'], ((0, 2), (0, 2), (0, 0)), constant_values=0.449)
    wide = {**shared, 'maps': dark}
    want = ChannelPrompt(1).after(Place(shared=wide), 'patch_embed', x, y)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('size', [1, 4, 5, 7])
@pytest.mark.parametrize(('k', 'stride'), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_a_convolution_takes_its_stride_from_what_it_is_like(size, k, stride):
    keys = jax.random.split(jax.random.key(0), 2)
    x, kernel = (
        jax.random.normal(keys[0], (2, size, size, 3)),
        jax.random.normal(keys[1], (k, k, 3, 2)),
    )
    want = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(k // 2, k // 2)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    np.testing.assert_allclose(convolve_like(x, kernel, want), want, atol=1e-5)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: BorderPrompt(0), 'num_prompts is 0; at least 1'),
        (lambda: ChannelPrompt(0), 'num_prompts is 0; at least 1'),
        (lambda: BorderPrompt(border='around'), "border is 'around'; allowed: 'auto', 'outside'"),
        (lambda: _init(BorderPrompt(2, 'outside'), SPEC), "on a vit, whose.*'inside'.*vpt_shallow"),
        (lambda: _init(BorderPrompt(8), SPEC), 'num_prompts is 8; .* 16 pixels .* at most 7'),
        (lambda: _init(ChannelPrompt(faithful=True), SPEC), 'this is a vit: allowed: False'),
        (lambda: _init(ChannelPrompt(), replace(SPEC, outer={})), 'none of the sites'),
        (
            lambda: BorderPrompt(2).image(
                Place(shared=_init(BorderPrompt(2), RESNET)), jnp.zeros((1, 18, 18, 3))
            ),
            r'images of shape \(1, 18, 18, 3\) in a border made for 16 pixels',
        ),
        (
            lambda: ChannelPrompt(2).after(
                Place(shared=_init(ChannelPrompt(2), SMALL)),
                'stem_conv',
                jnp.zeros((1, 22, 22, 3)),
                jnp.zeros((1, 22, 22, 4)),
            ),
            r'image of 22 pixels and learned channels of 16.*vpt_pad',
        ),
    ],
)
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
