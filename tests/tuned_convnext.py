"""A small ConvNeXt with random weights: two stages, two blocks each, at 8 x 8 and 4 x 4 pixels."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from params import drawn

from jax_prompt.backbones.convnext import ConvNeXt
from jax_prompt.backbones.convnext_config import ConvNeXtConfig
from jax_prompt.core.tree import split, stack_layers, unstack_layers
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier

CONFIG = ConvNeXtConfig(8, (2, 2), 32)
SPEC = CONFIG.spec()
CLASSES, PROMPTS = 5, 3
IMAGES = np.random.default_rng(1).normal(size=(3, 32, 32, 3)).astype(np.float32)


@cache
def weights():
    """Returns random weights, each layer's as a subtree, numpy."""
    images = jnp.zeros((1, 32, 32, 3))
    return unstack_layers(drawn(ConvNeXt(CONFIG).init, jax.random.key(0), images, seed=5)['params'])


def stacked(seams=()):
    """Returns `weights` as `ConvNeXt(CONFIG, seams)` takes them."""
    return stack_layers(weights(), (*CONFIG.seams, *seams))


def tuned(name, **options):
    """Builds a method's classifier; returns it with random (trainable, frozen) parameters."""
    method = get_method(name)
    options = method.with_prompts(options, PROMPTS)
    classifier = build_classifier(CONFIG, method, CLASSES, **options)
    # Away from zeros: what starts at zero would hold back what lies before it.
    added = drawn(classifier.init_added, jax.random.key(0))
    params = {'backbone': stacked(classifier.backbone.seams), **added}
    return classifier, *split(params, method.predicate(classifier.tuner, classifier.spec))
