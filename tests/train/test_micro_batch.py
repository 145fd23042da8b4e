"""A step in parts comes to the same as the step at once, and no frozen weight has a gradient."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import copied, drawn

from jax_prompt.backbones.resnet_config import ResNetConfig
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.tree import split
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import METHODS
from jax_prompt.model import build_classifier
from jax_prompt.train import memory
from jax_prompt.train.memory import activations_mb, plan_step
from jax_prompt.train.optim import Hyper, Optim
from jax_prompt.train.program import Program, make_logits
from jax_prompt.train.step import make_step

CONFIG = ViTConfig(16, 2, 2, 32, 4, 8)
HYPER = Hyper(*map(jnp.float32, (1e-2, 1e-3, 1e-3)))


def _setup(method, size, config=CONFIG, **options):
    classifier = build_classifier(config, METHODS[method], 3, **options)
    program = Program(
        classifier=classifier,
        optim=Optim('sgd'),
        epochs=2,
        steps_per_epoch=2,
        augment=Augment(crop='random', pad=1, flip=True),
        image_size=config.image_size,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        transform=METHODS[method].make_transform(),
    )
    params = drawn(classifier.init, jax.random.key(0))
    trains = METHODS[method].predicate(classifier.tuner, classifier.spec)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, config.image_size, config.image_size, 3), np.uint8)
    labels = rng.integers(0, 3, size).astype(np.int32)
    weights = (np.arange(size) < size - 2).astype(np.float32)  # two rows of padding
    return program, *split(params, trains), images, labels, weights


def _step(program, trainable, frozen, *batch):
    state = program.init(copied(trainable))
    return make_step(program, state, frozen, *batch, HYPER, jax.random.key(1))


@pytest.mark.parametrize('method', ['vpt_deep', 'full', 'lion'])
def test_parts_come_to_the_same_step(method):
    program, *rest = _setup(method, 12)
    whole, metrics = _step(program, *rest)
    parts, sums = _step(replace(program, micro_batch=5), *rest)  # three parts of four
    for name in metrics:
        # How far an inner solve came within its tolerance depends on the images beside it.
        loose = name.endswith(('residual', 'residual_worst'))
        np.testing.assert_allclose(sums[name], metrics[name], rtol=1.0 if loose else 2e-4)
    for one, other in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_parts_of_an_evaluation_come_to_the_same_logits():
    program, trainable, frozen, images, *_ = _setup('vpt_deep', 12)
    whole = make_logits(program, trainable, frozen, images)
    parts = make_logits(replace(program, micro_batch=4), trainable, frozen, images)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_parts_draw_masks_of_their_own():
    program, *rest = _setup('vpt_deep', 4, dropout_rate=0.5)
    rest[2][:], rest[3][:], rest[4][:] = rest[2][0], 0, 1.0  # four times the same image
    program = replace(program, augment=Augment())
    classifier, x = program.classifier, jnp.asarray(rest[2], jnp.float32) / 255
    params = {**rest[0], 'backbone': rest[1]['backbone']}
    keys = [jax.random.fold_in(jax.random.key(0), i) for i in range(2)]
    one, other = (classifier.apply(params, x[:1], key=key, train=True) for key in keys)
    assert np.abs(one - other).max() > 1e-4
    whole, _ = _step(program, *rest)
    parts, _ = _step(replace(program, micro_batch=2), *rest)
    assert any(
        np.abs(a - b).max() > 1e-6
        for a, b in zip(
            jax.tree.leaves(whole.trainable), jax.tree.leaves(parts.trainable), strict=True
        )
    )


def test_frozen_weights_have_no_gradient():
    """The step of `full` costs the products of its weights' gradients more than prompts do."""
    config = ViTConfig(64, 3, 2, 256, 4, 32, scan=False)  # unrolled: XLA counts a loop's body once
    size, tokens = 2, 1 + 64 + 1

    def flops(method, **options):
        program, trainable, frozen, *batch = _setup(method, size, config, **options)
        state = program.init(trainable)
        compiled = make_step.lower(program, state, frozen, *batch, HYPER, jax.random.key(1))
        return compiled.compile().cost_analysis()['flops']

    # Multiply and add for each weight of the 12 D^2 of a block; of the last one token counts.
    blocks = config.depth - 1
    of_blocks = 2 * size * tokens * 12 * config.width**2 * blocks
    prompts = flops('vpt_deep', num_prompts=1)
    assert flops('full') - prompts > of_blocks
    forward = of_blocks + 4 * size * blocks * tokens**2 * config.width
    # Forward, and of the backward pass only the gradients of tokens; attention's share twice, and
    # a fraction of a block for the last.
    assert prompts < 2.9 * forward


@pytest.mark.parametrize('remat', ['none', 'save', 'full'])
def test_estimated_activations_are_near_those_compiled(remat):
    config = ViTConfig(96, 6, 3, 384, 16, 96, remat=remat)
    program, trainable, frozen, *batch = _setup('vpt_deep', 16, config, num_prompts=10)
    state = program.init(trainable)
    step = make_step.lower(program, state, frozen, *batch, HYPER, jax.random.key(1)).compile()
    measured = step.memory_analysis().temp_size_in_bytes / 1e6
    classifier = program.classifier
    estimated = activations_mb(classifier.spec, classifier.tuner, remat, 16)
    assert 0.6 < estimated / measured < 1.7


GPU = SimpleNamespace(platform='gpu')  # a kind of device that is not here


def test_a_smaller_budget_keeps_less_and_then_takes_parts(monkeypatch):
    tuner = METHODS['vpt_deep'].make_tuner(num_prompts=10)
    spec = ViTConfig(192, 12, 3, 768, 16, 224).spec()
    budgets = [1.01 * activations_mb(spec, tuner, form, 64) for form in ('none', 'save', 'full')]
    plans = [plan_step(spec, tuner, 64, memory_mb=mb, device=GPU) for mb in (*budgets, 100)]
    assert [(p.micro_batch, p.remat) for p in plans[:3]] == [(0, 'none'), (0, 'save'), (0, 'full')]
    assert plans[3].remat == 'full' and 0 < plans[3].micro_batch < 64
    split = [
        plan_step(spec, tuner, 64, memory_mb=mb, device=GPU, devices=4, fsdp=4)
        for mb in (1e6, budgets[2] / 4)
    ]
    assert [plan.remat for plan in split] == ['save', 'full']  # 'none' keeps gathered weights
    assert activations_mb(spec, tuner, 'full', plans[3].micro_batch) <= 100
    monkeypatch.setattr(memory, 'num_cores', lambda: 2)
    plan = plan_step(spec, tuner, 32)
    assert (plan.micro_batch, plan.remat) == (2, 'save')
    asked = plan_step(spec, tuner, 32, remat='none', micro_batch=32)
    assert (asked.micro_batch, asked.remat) == (0, 'none')


def test_convolutions_come_in_parts_on_a_cpu_alone(monkeypatch):
    tuner, spec = METHODS['vpt_pad'].make_tuner(), ResNetConfig('bottleneck', (3, 4), 224).spec()
    monkeypatch.setattr(memory, 'num_cores', lambda: 2)
    plans = [plan_step(spec, tuner, 8, together=whole) for whole in (False, True)]
    assert [(p.micro_batch, p.remat) for p in plans] == [(4, 'none'), (0, 'none')]
    small = ResNetConfig('basic', (2, 2), 32, stem='small').spec()
    assert plan_step(small, tuner, 48).micro_batch == 12
    assert plan_step(spec, tuner, 8, memory_mb=1e6, device=GPU).micro_batch == 0
