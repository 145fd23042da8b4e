"""Every method learns on the embedded default: `vit_micro` on handwritten digits."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.backbones.vit import adapt
from jax_prompt.core.tree import split
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import METHODS, get_method
from jax_prompt.model import build_classifier
from jax_prompt.train.optim import Hyper, Optim
from jax_prompt.train.program import Program
from jax_prompt.train.step import make_steps
from jax_prompt.weights.load import load_weights

BATCH, STEPS = 8, 8
SIDE = 16  # of the images, in pixels; the weights are those of 32 pixels


@pytest.fixture(scope='module')
def backbone(weights):
    tree, report = load_weights(weights, 'vit_micro')
    return tree, replace(report.config, image_size=SIDE), report.identity


@pytest.fixture(scope='module')
def digits():
    """The first 16 digits, 8 x 8 pixels enlarged to 16 x 16."""
    datasets = pytest.importorskip('sklearn.datasets', reason='scikit-learn is not installed')
    images, labels = datasets.load_digits(return_X_y=True)
    images = images[:16].reshape(-1, 8, 8).repeat(2, axis=1).repeat(2, axis=2) * 255 / 16
    return np.stack([images] * 3, axis=-1).astype(np.uint8), labels[:16].astype(np.int32)


@pytest.mark.parametrize('name', [*METHODS, 'spt_deep+lora'])
def test_the_loss_falls(name, backbone, digits):
    tree, config, identity = backbone
    method = get_method(name)
    options = method.with_prompts({}, 4)
    model = build_classifier(config, method, 10, **options)
    added = model.init_added(jax.random.key(0))
    params = {'backbone': adapt(tree, config, model.backbone.seams), **added}
    trains = method.predicate(model.tuner, model.spec)
    trainable, frozen = split(jax.tree.map(jnp.array, params), trains)
    program = Program(
        classifier=model,
        optim=Optim('adamw'),
        epochs=100,
        steps_per_epoch=100,
        augment=Augment(),
        image_size=SIDE,
        mean=identity.mean,
        std=identity.std,
    )
    order = np.arange(BATCH * STEPS).reshape(STEPS, BATCH) % 16
    rate = 1e-3 if name in ('full', 'retrain') else 1e-2
    hyper = Hyper(*(jnp.float32(x) for x in (rate, 0.0, 0.0)))
    key, ones = jax.random.key(1), np.ones((STEPS, BATCH), np.float32)
    state = program.init(trainable)
    _, metrics = make_steps(program, state, frozen, *digits, order, ones, hyper, key)
    losses = np.asarray(metrics['loss'])
    assert np.isfinite(losses).all()
    # The same two batches in turn: each is met four times.
    assert losses[-2:].mean() < 0.95 * losses[:2].mean()
