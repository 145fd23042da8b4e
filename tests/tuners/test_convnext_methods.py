"""The list that every method has to pass on a ConvNeXt, which no tuner knows of."""

import jax
import pytest
from tuned_checks import check_cut, check_learning, check_merged, check_start
from tuned_convnext import CLASSES, CONFIG, IMAGES, PROMPTS, stacked, tuned

from jax_prompt.core.spec import FEATURES, Cut
from jax_prompt.core.tree import count, split
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
    check_learning(*tuned(name), IMAGES)


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
    check_start(classifier, linear, IMAGES, stacked)


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
    check_cut(*tuned(name, **options), IMAGES, cut, own)


def test_merged_weights_need_no_tuner():
    check_merged(*tuned('lora+ssf', lora={'parts': 'mlp'}), IMAGES)


@pytest.mark.parametrize('name', sorted(TOKENS))
def test_prompts_among_tokens_are_refused_when_the_network_is_built(name):
    with pytest.raises(ValueError, match='puts prompts among tokens, and a convnext has none'):
        build_classifier(CONFIG, get_method(name), CLASSES)
