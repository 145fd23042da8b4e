"""The list that every method has to pass on a Swin, whose stages have unlike widths."""

import jax
import pytest
from tuned_checks import check_learning
from tuned_swin import CLASSES, CONFIG, IMAGES, PROMPTS, tuned

from jax_prompt.backbones.swin_config import SwinConfig
from jax_prompt.core.tree import count, split
from jax_prompt.methods import METHODS, get_method
from jax_prompt.model import build_classifier

D, E = 8, 16  # widths of the stages, of two blocks each


def _block(d, heads):
    return 4 * d + (d + 1) * 3 * d + (d + 1) * d + (d + 1) * 4 * d + (4 * d + 1) * d + 49 * heads


def _meta(d, outputs, k=4, m=64):
    return d * m + m + (k - 2) * (m * m + m) + m * outputs


BACKBONE = 49 * D + 2 * D + 2 * (_block(D, 1) + _block(E, 2)) + 8 * D + 4 * D * E + 2 * E
SSF_BLOCK = 2 + 3 + 1 + 4 + 1  # outputs of ln1, ln2, qkv, proj, fc1, fc2 over the width
ADDED = {
    'linear': 0,
    'full': BACKBONE,
    'retrain': BACKBONE,
    'vpt_shallow': PROMPTS * D,
    'spt_shallow': PROMPTS * D,
    'vpt_deep': 2 * PROMPTS * (D + E),
    'spt_deep': 2 * PROMPTS * (D + E),
    'dvpt_shallow': PROMPTS * D + _meta(D, PROMPTS * D),
    'dvpt_deep': 2 * PROMPTS * (D + E) + _meta(D, PROMPTS * D) + _meta(E, PROMPTS * E),
    'gated_vpt': PROMPTS * D + 3 + 4,
    'e2vpt': 2 * (PROMPTS + 5) * (D + E),
    'vpt_pad': 3 * 32**2 - 3 * (32 - 2 * PROMPTS) ** 2,
    'vpt_channels': PROMPTS * (32**2 + 4**2 * D),
    'lion': (2 * 27 * 64 + 64 + 8) + (2 * E * 105 + E + 105 + 2 * 105**2 + 105 + 2),
    'lora': 2 * 8 * 4 * (D + E),
    'ssf': 2 * (2 * D + 4 * D + E + E + 2 * SSF_BLOCK * (D + E)),
    'adapter': 2 * (2 * 64 * (D + E) + 2 * 64 + D + E),
    'partial': _block(E, 2) + 2 * E,
    'bias': D + D + 2 * 11 * (D + E) + 4 * D + E,
    'mlp': 2 * (E * E + 3 * E),
    'sidetune': 28 * 16 + 145 * 32 + 289 * 64 + 577 * 128 + 129 * E + 1,
    'snf': 2 * 2 * 2 * (D + E),
    'mp': 2 * E * 64 + 64 * 64 // 4 * CLASSES,
}
ADDED['dvpt_spt'] = ADDED['dvpt_deep']


# Each in one program, so that all that a Swin does differently is compiled a few times only.
TOGETHER = (
    'vpt_deep+lora+ssf+adapter+snf+mp',
    'e2vpt+bias',
    'gated_vpt+partial',
    'vpt_pad+vpt_channels',
    'dvpt_deep',
    'vpt_shallow',
    'full',
)


@pytest.mark.parametrize('name', METHODS)
def test_trainable_count_equals_the_closed_form(name):
    method = get_method(name)
    options = method.with_prompts({}, PROMPTS)
    classifier = build_classifier(CONFIG, method, CLASSES, **options)
    params = jax.eval_shape(classifier.init, jax.random.key(0))
    trainable, _ = split(params, method.predicate(classifier.tuner, classifier.spec))
    assert count(trainable) == ADDED[name] + (E + 1) * CLASSES


@pytest.mark.parametrize(
    ('name', 'prompts', 'golden'),
    [('vpt_shallow', 50, 6_400), ('vpt_deep', 50, 601_600), ('lion', 10, 241_854)],
)
def test_golden_counts_on_swin_b(name, prompts, golden):
    config = SwinConfig(128, (2, 2, 18, 2), (4, 8, 16, 32), 7, 4, 224)
    method = get_method(name)
    model = build_classifier(config, method, 10, **method.with_prompts({}, prompts))
    assert count(jax.eval_shape(model.init_added, jax.random.key(0))['tuner']) == golden


@pytest.mark.parametrize('name', TOGETHER)
def test_every_leaf_learns_and_no_image_depends_on_the_others(name):
    check_learning(*tuned(name), IMAGES)
