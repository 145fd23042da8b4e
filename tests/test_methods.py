"""The list that every method has to pass."""

import math
from dataclasses import replace
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import copied, drawn

from jax_prompt.backbones.vit import ViT
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.tree import count, flatten, merge, split
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import METHODS, get_method
from jax_prompt.model import build_classifier
from jax_prompt.train.mesh import data_mesh, replicate
from jax_prompt.train.optim import Hyper, Optim
from jax_prompt.train.program import Program
from jax_prompt.train.step import make_step

CONFIG = ViTConfig(32, 3, 2, 64, 4, 16)
CLASSES, PROMPTS, BATCH = 5, 4, 8
BLOCK = 4 * 32 + 32 * 96 + 96 + 33 * 32 + 33 * 64 + 65 * 32
BACKBONE = 49 * 32 + 17 * 32 + 3 * BLOCK + 96
LION = (2 * 27 * 64 + 64 + 3 + 3 + 2) + (2 * 32 * 71 + 32 + 2 * 71 * 71 + 2 * 71 + 2)
DVPT = (32 * 64 + 64) + 2 * (64 * 64 + 64) + 64 * PROMPTS * 32
ADDED = {
    'linear': 0,
    'full': BACKBONE,
    'retrain': BACKBONE,
    'vpt_shallow': PROMPTS * 32,
    'spt_shallow': PROMPTS * 32,
    'vpt_deep': 3 * PROMPTS * 32,
    'spt_deep': 3 * PROMPTS * 32,
    'dvpt_shallow': PROMPTS * 32 + DVPT,
    'dvpt_deep': 3 * PROMPTS * 32 + DVPT,
    'dvpt_spt': 3 * PROMPTS * 32 + DVPT,
    'gated_vpt': PROMPTS * 32 + 2 + 3,
    'e2vpt': 3 * (PROMPTS + 5) * 32,
    'vpt_pad': 3 * 16**2 - 3 * (16 - 2 * PROMPTS) ** 2,
    'vpt_channels': PROMPTS * (16**2 + 4**2 * 32),
    'lion': LION,
    'lora': 3 * 8 * (32 + 96),
    'ssf': 2 * (2 * 32 + 3 * (2 * 32 + 96 + 32 + 64 + 32)),
    'adapter': 3 * (2 * 32 * 64 + 64 + 32),
    'partial': BLOCK + 64,
    'bias': 32 + 3 * (32 + 96 + 32 + 32 + 64 + 32) + 32,
    'mlp': 2 * (32 * 32 + 3 * 32),
    'sidetune': 28 * 16 + 145 * 32 + 289 * 64 + 577 * 128 + 129 * 32 + 1,
    'snf': 3 * 2 * 2 * 32,
    'mp': 2 * 32 * 64 + 64 * 64 // 4 * CLASSES,
}
# Of each method, what its blocks compute. Methods that act at sites of their own share a program:
# all their parameters are in it. Of methods that start from other values alone, one is there.
PROGRAMS = ('linear', 'full', 'vpt_shallow', 'vpt_deep', 'dvpt_shallow', 'dvpt_deep', 'gated_vpt')
PROGRAMS += ('e2vpt', 'vpt_pad+bias', 'lion', 'vpt_channels+lora+ssf+adapter+snf', 'partial+mlp')
PROGRAMS += ('sidetune', 'mp')
ALIKE = {'retrain': 'full', 'spt_shallow': 'vpt_shallow', 'spt_deep': 'vpt_deep'}
ALIKE |= {'dvpt_spt': 'dvpt_deep'}


def _options(name):
    return get_method(name).with_prompts({}, PROMPTS)


def _classifier(name, config=CONFIG):
    return build_classifier(config, get_method(name), CLASSES, **_options(name))


@cache
def _backbone(seams):
    return drawn(ViT(CONFIG, seams).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']


@cache
def _build(name):
    """Returns a method's classifier, what trains at its start, and the frozen rest, a random
    backbone. Nobody changes them."""
    classifier = _classifier(name)
    predicate = get_method(name).predicate(classifier.tuner, classifier.spec)
    backbone = jax.tree.map(jnp.asarray, _backbone(classifier.backbone.seams))
    params = {'backbone': backbone, **classifier.init_added(jax.random.key(0))}
    return classifier, *split(params, predicate)


def _program(classifier, **changes):
    values = {
        'classifier': classifier,
        'optim': Optim('sgd', momentum=0.0),
        'epochs': 1000,
        'steps_per_epoch': 4,
        'augment': Augment(),
        'image_size': 16,
        'mean': (0.5, 0.5, 0.5),
        'std': (0.5, 0.5, 0.5),
    }
    return Program(**(values | changes))


def _batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 16, 16, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    return jnp.asarray(images), jnp.asarray(labels), jnp.ones(BATCH)


def _steps(program, trainable, frozen, count=1):
    state = program.init(copied(trainable))
    hyper = Hyper(*(jnp.float32(x) for x in (0.5, 0.0, 0.0)))
    for _ in range(count):
        state, metrics = make_step(program, state, frozen, *_batch(), hyper, jax.random.key(3))
    return state, metrics


@cache
def _plain(name):
    """Returns what trains after one step of the plain program on one device."""
    classifier, trainable, frozen = _build(name)
    return _steps(_program(classifier), trainable, frozen)[0].trainable


@pytest.mark.parametrize('name', METHODS)
def test_trainable_count_equals_the_closed_form(name):
    _, trainable, _ = _build(name)
    assert count(trainable) == ADDED[name] + 33 * CLASSES
    # A weak type is lost in the first step: the second would be another program.
    assert not [path for path, leaf in flatten(trainable).items() if leaf.weak_type]


@pytest.mark.parametrize(
    ('prompts', 'classes', 'golden'), [(100, 6, 926_214), (100, 10, 929_290), (5, 397, 351_373)]
)
def test_golden_counts_of_vpt_deep_on_vit_b(prompts, classes, golden):
    config = ViTConfig(768, 12, 12, 3072, 16, 224)
    model = build_classifier(config, METHODS['vpt_deep'], classes, num_prompts=prompts)
    assert count(jax.eval_shape(model.init_added, jax.random.key(0))) == golden


@pytest.mark.parametrize('name', METHODS)
def test_frozen_leaves_stay_and_every_trainable_leaf_moves(name):
    classifier, trainable, frozen = _build(name)
    before = {path: np.asarray(leaf) for path, leaf in flatten(frozen).items()}
    # Two steps: the schedule's first one is at full rate without warm-up.
    state, _ = _steps(_program(classifier), trainable, frozen, 2)
    for path, leaf in flatten(frozen).items():
        np.testing.assert_array_equal(leaf, before[path], err_msg=path)
    start = flatten(trainable)
    for path, leaf in flatten(state.trainable).items():
        moved = np.abs(np.asarray(leaf) - np.asarray(start[path]))
        if path.split('/')[-2:-1] == ['qkv'] and path.endswith('bias'):
            moved = np.delete(moved, np.s_[32:64], axis=-1)  # softmax ignores a key bias
        if 'blocks' in path or 'layers' in path:  # each layer on its own
            assert (moved.reshape(moved.shape[0], -1).max(axis=1) > 0).all(), path
        assert moved.max() > 0, path


@pytest.mark.parametrize('name', METHODS)
def test_a_change_of_trainables_changes_nothing_before_the_cut(name):
    classifier, trainable, frozen = _build(name)
    cut = classifier.facts.cut
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    params = merge(trainable, frozen)
    if cut.at_image:
        return
    before = classifier.prefix(frozen['backbone'], images, cut)
    other = merge(jax.tree.map(lambda x: x + 1.0, trainable), frozen)
    np.testing.assert_array_equal(classifier.prefix(other['backbone'], images, cut), before)
    whole = classifier.apply(params, images)
    np.testing.assert_allclose(classifier.apply(params, before, start=cut), whole, atol=1e-5)


@pytest.mark.parametrize('name', METHODS)
def test_result_is_independent_of_the_other_images(name):
    classifier, trainable, frozen = _build(name)
    params = merge(trainable, frozen)
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    apply = jax.jit(classifier.apply)
    alone = classifier.apply(params, images[:1])
    np.testing.assert_allclose(apply(params, images)[:1], alone, atol=1e-5)
    spoiled = images.at[1:].set(jnp.nan)
    np.testing.assert_allclose(apply(params, spoiled)[:1], alone, atol=1e-5)


def test_programs_are_those_of_every_method():
    assert {part for name in PROGRAMS for part in name.split('+')} | ALIKE.keys() == set(METHODS)
    for one, other in ALIKE.items():
        assert _program(_classifier(one)) == _program(_classifier(other)), one
        assert jax.tree.map(jnp.shape, _build(one)[1:]) == jax.tree.map(
            jnp.shape, _build(other)[1:]
        )


@pytest.mark.parametrize('name', PROGRAMS)
@pytest.mark.parametrize('change', [{'remat': 'save'}, {'remat': 'full'}, {'scan': False}])
def test_rematerialised_and_unrolled_steps_equal_plain_ones(name, change):
    _, trainable, frozen = _build(name)
    other = _classifier(name, replace(CONFIG, **change))
    got, _ = _steps(_program(other), trainable, frozen)
    _close(got.trainable, _plain(name))


@pytest.mark.parametrize('name', PROGRAMS)
def test_sharded_step_equals_single_device(name):
    classifier, trainable, frozen = _build(name)
    mesh = data_mesh(8)
    program = _program(classifier, mesh=mesh)
    got, _ = _steps(program, replicate(trainable, mesh), replicate(frozen, mesh))
    _close(got.trainable, _plain(name))
    leaf = jax.tree.leaves(got.trainable)[0]
    assert len(leaf.sharding.device_set) == 8


def _close(got, want):
    chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', METHODS)
def test_loss_falls(name):
    classifier, trainable, frozen = _build(name)
    program = _program(classifier)
    state = program.init(copied(trainable))
    hyper, losses = Hyper(*(jnp.float32(x) for x in (0.1, 0.0, 0.0))), []
    for _ in range(25):
        state, metrics = make_step(program, state, frozen, *_batch(), hyper, jax.random.key(3))
        losses.append(float(metrics['loss']))
    assert losses[0] == pytest.approx(math.log(CLASSES), abs=0.6)
    assert losses[-1] < 0.9 * losses[0]


def test_unknown_methods_and_options_are_named():
    with pytest.raises(ValueError, match=r'did you mean .vpt_deep'):
        get_method('vpt_deeep')
    with pytest.raises(ValueError, match=r'did you mean .num_prompts'):
        METHODS['vpt_deep'].make_tuner(num_prompt=3)
    with pytest.raises(ValueError, match="no option 'deep'"):
        METHODS['vpt_deep'].make_tuner(deep=False)
    with pytest.raises(ValueError, match='at least 2'):
        build_classifier(CONFIG, METHODS['linear'], 1)
