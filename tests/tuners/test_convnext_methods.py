"""The list that every method has to pass on a ConvNeXt, which no tuner knows of."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tuned_convnext import CLASSES, CONFIG, IMAGES, PROMPTS, SPEC, stacked, tuned
from tuned_swin import gradients

from jax_prompt.core.spec import FEATURES, Cut
from jax_prompt.core.tree import count, flatten, merge, split
from jax_prompt.methods import METHODS, get_method
from jax_prompt.model import build_classifier

D, E = 8, 16  # widths of the stages, of two blocks each


def _block(d):
    return 49 * d + d + 2 * d + (d + 1) * 4 * d + (4 * d + 1) * d + d


BACKBONE = 51 * D + 2 * (_block(D) + _block(E)) + 2 * D + 4 * D * E + E + 2 * E
ADDED = {
    'linear': 0,
    'full': BACKBONE,
    'retrain': BACKBONE,
    'partial': _block(E) + 2 * E,
    'bias': 2 * D + 2 * 7 * (D + E) + D + E + E,
    'mlp': 2 * (E * E + 3 * E),
    'mp': 2 * E * 64 + 64 * 64 // 4 * CLASSES,
    'sidetune': 28 * 16 + 145 * 32 + 289 * 64 + 577 * 128 + 129 * E + 1,
    'vpt_pad': 12 * PROMPTS * (32 + PROMPTS),
    'vpt_channels': PROMPTS * (32**2 + 4**2 * D),
    'lion': (2 * 27 * 64 + 64 + 8) + (2 * E * 22 + E + 22 + 2 * 22**2 + 22 + 2),
    'lora': 2 * 8 * 5 * (D + E),
    'ssf': 2 * (3 * D + 2 * E + 2 * 7 * (D + E)),
    'adapter': 2 * (2 * 64 * (D + E) + 2 * 64 + D + E),
    'snf': 2 * 2 * (D + E),
}
TOKENS = set(METHODS) - ADDED.keys()
# Each in one program, so that a network is compiled a few times only.
TOGETHER = (
    'vpt_pad+lora+ssf+adapter+snf+mp',
    'vpt_channels+bias',
    'lion',
    'partial+mlp',
    'sidetune',
    'full',
)


@pytest.mark.parametrize('name', ADDED)
def test_trainable_count_equals_the_closed_form(name):
    method = get_method(name)
    classifier = build_classifier(CONFIG, method, CLASSES, **method.with_prompts({}, PROMPTS))
    params = jax.eval_shape(classifier.init, jax.random.key(0))
    trainable, _ = split(params, method.predicate(classifier.tuner, classifier.spec))
    assert count(trainable) == ADDED[name] + (E + 1) * CLASSES


@pytest.mark.parametrize('name', TOGETHER)
def test_every_leaf_learns_and_no_image_depends_on_the_others(name):
    classifier, trainable, frozen = tuned(name)
    run = gradients(classifier)
    (_, logits), grads = run(trainable, frozen, IMAGES)
    assert np.isfinite(logits).all()
    for path, leaf in flatten(grads).items():
        size = np.abs(np.asarray(leaf))
        assert np.isfinite(size).all(), path
        if 'blocks' in path or 'layers' in path:  # each layer on its own
            size = size.reshape(size.shape[0], -1)
            assert (size.max(axis=1) > 0).all(), path
        assert size.max() > 0, path
    spoiled = IMAGES.copy()
    spoiled[1:] = np.nan
    (_, alone), _ = run(trainable, frozen, spoiled)
    np.testing.assert_allclose(alone[0], logits[0], atol=1e-5)


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('lora+adapter+snf', {'lora': {'parts': 'mlp'}, 'snf': {'kind': 'planar'}}),
        ('ssf+bias', {'ssf': {'identity': True}}),
    ],
)
def test_training_starts_from_the_frozen_network(name, options):
    linear, *_ = tuned('linear')
    classifier, *_ = tuned(name, **options)
    added = jax.jit(classifier.init_added)(jax.random.key(0))
    want = jax.jit(linear.apply)({'head': added['head'], 'backbone': stacked()}, IMAGES)
    backbone = stacked(classifier.backbone.seams)
    got = jax.jit(classifier.apply)({**added, 'backbone': backbone}, IMAGES)
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(
    ('name', 'options', 'cut', 'own'),
    [
        ('linear', {}, FEATURES, set()),
        ('mp', {}, Cut(3), set()),
        (
            'partial',
            {'last': 3},
            Cut(1),
            {'blocks_01_02', 'blocks_02_04', 'down_02', 'norm'},
        ),
        ('lora', {'first_layer': 2}, Cut(2), set()),
    ],
)
def test_a_change_of_trainables_changes_nothing_before_the_cut(name, options, cut, own):
    classifier, trainable, frozen = tuned(name, **options)
    assert classifier.tuner.facts(SPEC).cut == cut
    assert {path.split('/')[0] for path in flatten(trainable.get('backbone', {}))} == own
    prefix = jax.jit(partial(classifier.prefix, cut=cut))
    before = prefix(frozen['backbone'], IMAGES)
    params = merge(trainable, frozen)
    whole = jax.jit(classifier.apply)(params, IMAGES)
    got = jax.jit(partial(classifier.apply, start=cut))(params, before)
    np.testing.assert_allclose(got, whole, atol=1e-5)


def test_merged_weights_need_no_tuner():
    classifier, trainable, frozen = tuned('lora+ssf', lora={'parts': 'mlp'})
    tuner, own, backbone = classifier.tuner, trainable['tuner'], frozen['backbone']
    run = jax.jit(lambda tree, own=None: classifier.backbone.apply(
        {'params': tree}, IMAGES, tuner if own else None, own
    ))  # fmt: skip
    want = run(backbone, own)
    assert np.abs(want - run(backbone)).max() > 0.01
    merged = tuner.merged(backbone, own, SPEC)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, backbone)
    np.testing.assert_allclose(run(merged), want, atol=1e-4)


@pytest.mark.parametrize('name', sorted(TOKENS))
def test_prompts_among_tokens_are_refused_when_the_network_is_built(name):
    with pytest.raises(ValueError, match='puts prompts among tokens, and a convnext has none'):
        build_classifier(CONFIG, get_method(name), CLASSES)
