"""Rows that fill up a batch count for nothing, and averages of weights keep what they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import copied, drawn

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.tree import split
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier
from jax_prompt.train.optim import Hyper, Optim
from jax_prompt.train.program import Program
from jax_prompt.train.step import make_step

DECAY = 0.9


@pytest.fixture(scope='module')
def step():
    """Returns a function that takes one step of a small linear probe, and its weights before."""
    method = get_method('linear')
    model = build_classifier(ViTConfig(16, 1, 2, 32, 8, 16), method, 3)
    params = drawn(model.init, jax.random.key(0))
    trainable, frozen = split(params, method.predicate(model.tuner, model.spec))
    program = Program(
        classifier=model,
        optim=Optim('sgd', momentum=0.0, ema_decay=DECAY),
        epochs=4,
        steps_per_epoch=4,
        augment=Augment(),
        image_size=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    hyper = Hyper(*(jnp.float32(x) for x in (0.5, 0.0, 0.0)))

    def take(labels, weights):
        state = program.init(copied(trainable))
        batch = images, np.asarray(labels, np.int32), np.asarray(weights, np.float32)
        return make_step(program, state, frozen, *batch, hyper, jax.random.key(3))

    return take, trainable


def test_rows_of_weight_zero_count_for_nothing(step):
    take, _ = step
    (one, seen), (other, same) = (take([0, 1, *rest], [1, 1, 0, 0]) for rest in ([0, 0], [2, 1]))
    _, all_four = take([0, 1, 2, 1], [1, 1, 1, 1])
    assert seen['count'] == 2
    for name in ('loss', 'correct', 'grad_norm'):
        assert seen[name] == same[name]
    jax.tree.map(np.testing.assert_array_equal, one.trainable, other.trainable)
    assert float(all_four['loss']) != float(seen['loss'])
    assert float(take([0, 1, 2, 1], [0, 0, 1, 1])[1]['loss'] + seen['loss']) == pytest.approx(
        2 * float(all_four['loss']), rel=1e-5
    )


def test_an_average_keeps_its_decay_of_what_was(step):
    take, before = step
    state, _ = take([0, 1, 2, 1], [1, 1, 1, 1])
    for old, new, mean in zip(
        *map(jax.tree.leaves, (before, state.trainable, state.ema)), strict=True
    ):
        np.testing.assert_allclose(mean, DECAY * old + (1 - DECAY) * new, rtol=1e-6, atol=1e-7)
    assert np.abs(np.asarray(state.trainable['head']['kernel'])).max() > 0
