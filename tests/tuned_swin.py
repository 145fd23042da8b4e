"""A small Swin with random weights: two stages, two blocks each, four windows and then one."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from params import drawn

from jax_prompt.backbones.swin import Swin
from jax_prompt.backbones.swin_config import SwinConfig
from jax_prompt.core.tree import merge, split, stack_layers, unstack_layers
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier

CONFIG = SwinConfig(8, (2, 2), (1, 2), 4, 4, 32)
SPEC = CONFIG.spec()
CLASSES, PROMPTS = 5, 3
IMAGES = np.random.default_rng(1).normal(size=(3, 32, 32, 3)).astype(np.float32)


def backbone_of(config=CONFIG, seams=()):
    """Returns random weights of a Swin."""
    images = np.zeros((1, config.image_size, config.image_size, 3), np.float32)
    init = Swin(config, seams).init
    return drawn(init, jax.random.key(0), images, seed=5, scale=0.2)['params']


def features(config, backbone, tuner=None, params=None, seams=(), images=IMAGES, **options):
    """Computes the features [B, D] of the images."""

    def run(backbone, params, images):
        return Swin(config, seams).apply({'params': backbone}, images, tuner, params, **options)

    return jax.jit(run)(backbone, params, images)


@cache
def _weights():
    return unstack_layers(drawn(Swin(CONFIG).init, jax.random.key(0), IMAGES)['params'])


def tuned(name, config=CONFIG, **options):
    """Builds a method's classifier; returns it with random (trainable, frozen) parameters."""
    method = get_method(name)
    options = method.with_prompts(options, PROMPTS)
    classifier = build_classifier(config, method, CLASSES, **options)
    seams = (*CONFIG.starts, *classifier.backbone.seams)
    # Away from zeros: what starts at zero would hold back what lies before it.
    added = drawn(classifier.init_added, jax.random.key(0), seed=1)
    params = {'backbone': stack_layers(_weights(), seams), **added}
    return classifier, *split(params, method.predicate(classifier.tuner, classifier.spec))


def gradients(classifier):
    """Returns the jitted function (trainable, frozen, images) -> ((loss, logits), gradients)."""

    def loss(trainable, frozen, images):
        logits = classifier.apply(merge(trainable, frozen), images)
        # Of one image alone, so that others that are spoiled spoil no sum.
        return jnp.sum(logits[:1] ** 2), logits

    return jax.jit(jax.value_and_grad(loss, has_aux=True))
