"""DVPT's clues: from which image they come, to which prompts they go, and where they start."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import drawn

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.spec import IMAGE, Cut
from jax_prompt.core.tree import count
from jax_prompt.core.tuner import Place
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier
from jax_prompt.tuners.dvpt import DVPT
from jax_prompt.tuners.vpt import VPT

CONFIG = ViTConfig(32, 3, 2, 64, 4, 16)
VIT_B = ViTConfig(768, 12, 12, 3072, 16, 224)
FORMS = [{}, {'dynamic': 'shared'}, {'meta_input': 'pixels'}, {'deep': False}]


def _grown(params):
    """The last kernel away from its zero."""
    last = sorted(params['shared']['meta'])[-1]
    kernel = params['shared']['meta'][last]['kernel']
    grown = 0.1 * jax.random.normal(jax.random.key(9), kernel.shape)
    meta = {**params['shared']['meta'], last: {'kernel': grown}}
    return {**params, 'shared': {**params['shared'], 'meta': meta}}


def _place(params, image, layer=0, **changes):
    layers = params.get('layers', {})
    own = jax.tree.map(lambda leaf: leaf[layer], layers)
    values = {'shared': params['shared'], 'params': own, 'layer': layer, 'image': image}
    return Place(prompts_at=(1, 4), **(values | changes))


def _inputs():
    image = jax.random.normal(jax.random.key(1), (3, 16, 16, 3))
    return image, jax.random.normal(jax.random.key(2), (3, 17, 32))


@pytest.mark.parametrize('options', FORMS)
def test_prompts_depend_on_their_own_image_and_on_no_other(options):
    tuner = DVPT(num_prompts=4, **options)
    params = _grown(tuner.init(jax.random.key(0), CONFIG.spec()))
    image, tokens = _inputs()
    prompts = tuner.prompts(_place(params, image), tokens)
    assert prompts.shape == (3, 4, 32)
    other = tuner.prompts(_place(params, image.at[1].add(image[2])), tokens.at[1].add(tokens[2]))
    np.testing.assert_array_equal(other[::2], prompts[::2])
    assert (jnp.abs(other[1] - prompts[1]).max(axis=-1) > 1e-3).all()
    spoiled = _place(params, image.at[1:].set(jnp.nan))
    kept = tuner.prompts(spoiled, tokens.at[1:].set(jnp.nan))[0]
    np.testing.assert_allclose(kept, prompts[0], atol=1e-6)


@pytest.mark.parametrize('options', FORMS)
def test_starts_as_vpt_exactly(options):
    deep = options.get('deep', True)
    name = 'dvpt_deep' if deep else 'dvpt_shallow'
    own = {k: v for k, v in options.items() if k != 'deep'}
    model = build_classifier(CONFIG, get_method(name), 5, num_prompts=4, **own)
    params = model.init(jax.random.key(0))
    group = 'layers' if deep else 'shared'
    bare = {group: {'prompts': params['tuner'][group]['prompts']}}
    plain = replace(model, tuner=VPT(4, deep))
    images = _inputs()[0]
    want = plain.apply({**params, 'tuner': bare}, images)
    np.testing.assert_array_equal(model.apply(params, images), want)
    moved = model.apply({**params, 'tuner': _grown(params['tuner'])}, images)
    assert jnp.abs(moved - want).max() > 1e-3


def test_only_the_first_block_is_dynamic():
    tuner = DVPT(num_prompts=4)
    params = _grown(tuner.init(jax.random.key(0), CONFIG.spec()))
    image, tokens = _inputs()
    for layer in (1, 2):
        prompts = tuner.prompts(_place(params, image, layer), tokens)
        want = jnp.broadcast_to(params['layers']['prompts'][layer], (3, 4, 32))
        np.testing.assert_array_equal(prompts, want)


@pytest.mark.parametrize('dynamic', ['specific', 'shared'])
def test_clue_is_the_meta_net_of_the_mean_patch(dynamic):
    tuner = DVPT(num_prompts=4, dynamic=dynamic, meta_layers=2, meta_width=8)
    params = _grown(tuner.init(jax.random.key(0), CONFIG.spec()))
    image, tokens = _inputs()
    clue = tuner.prompts(_place(params, image), tokens) - params['layers']['prompts'][0]
    x = np.asarray(tokens)[:, 1:].mean(axis=1)  # the class token is left out
    x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-6)
    first, last = (params['shared']['meta'][name] for name in ('linear_00', 'linear_01'))
    h = jax.nn.gelu(x @ first['kernel'] + first['bias'], approximate=False)
    want = np.asarray(h @ last['kernel']).reshape(3, -1, 32)
    assert want.shape[1] == (4 if dynamic == 'specific' else 1)
    np.testing.assert_allclose(clue, np.broadcast_to(want, clue.shape), atol=1e-5)


def _closed(inputs, outputs, k, m):
    return inputs * m + m + (k - 2) * (m * m + m) + m * outputs


@pytest.mark.parametrize('layers', [2, 4, 6])
@pytest.mark.parametrize(('options', 'inputs'), [({}, 768), ({'meta_input': 'pixels'}, 192)])
@pytest.mark.parametrize('dynamic', ['specific', 'shared'])
def test_counts_on_vit_b_equal_the_closed_form_and_stay_below_a_percent(
    layers, options, inputs, dynamic
):
    tuner = DVPT(meta_layers=layers, dynamic=dynamic, **options)
    made = count(jax.eval_shape(lambda k: tuner.init(k, VIT_B.spec()), jax.random.key(0)))
    outputs = 7680 if dynamic == 'specific' else 768
    assert made == _closed(inputs, outputs, layers, 64) + 12 * 7680
    assert made < 0.01 * 85.8e6


def test_golden_counts_on_vit_b():
    def total(**options):
        init = DVPT(**options).init
        return count(jax.eval_shape(lambda k: init(k, VIT_B.spec()), jax.random.key(0)))

    assert total() == 641_216
    assert total(dynamic='shared') == 198_848
    assert total(deep=False) == 556_736
    assert total(num_prompts=20, meta_width=32) < 858_000


def test_pixels_need_the_image_and_move_the_cut():
    method = get_method('dvpt_deep')
    model = build_classifier(CONFIG, method, 5, num_prompts=4, meta_input='pixels')
    assert model.facts.cut == IMAGE
    assert DVPT().facts(model.spec).cut == Cut(0)
    params, images = drawn(model.init, jax.random.key(0)), _inputs()[0]
    tokens = model.prefix(params['backbone'], images, Cut(0))
    with pytest.raises(ValueError, match='start from the image'):
        model.apply(params, tokens, start=Cut(0))


def test_calibrated_prompts_leave_the_meta_net_alone():
    tuner = DVPT(num_prompts=4)
    params = tuner.init(jax.random.key(0), CONFIG.spec())
    after = tuner.calibrated(params, np.ones((3, 4, 32)))
    assert after['shared'] is params['shared']
    assert float(after['layers']['prompts'].min()) == 1.0


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        ({'dynamic': 'own'}, "dynamic is 'own'; allowed: 'specific', 'shared'"),
        ({'meta_input': 'image'}, "allowed: 'patches', 'pixels'"),
        ({'meta_layers': 1}, 'at least 2'),
        ({'meta_width': 0}, 'at least 1'),
        ({'num_prompts': 0}, 'at least 1'),
    ],
)
def test_bad_options_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        DVPT(**options)
