"""A small ResNet with random weights: five bottlenecks, two at 8 x 8 pixels, three at 4 x 4."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from params import drawn

from jax_prompt.backbones.resnet import ResNet
from jax_prompt.backbones.resnet_config import ResNetConfig
from jax_prompt.core.tree import flatten, split, stack_layers, unflatten, unstack_layers
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier

CONFIG = ResNetConfig('bottleneck', (2, 3), 32, width=4)
SPEC = CONFIG.spec()
RESNET_50 = ResNetConfig('bottleneck', (3, 4, 6, 3), 224)
CLASSES, PROMPTS = 5, 3
IMAGES = np.random.default_rng(1).normal(size=(3, 32, 32, 3)).astype(np.float32)


def positive(tree):
    """Returns the tree with its variances made positive."""
    flat = flatten(tree)
    return unflatten({p: abs(v) + 0.1 if p.endswith('/var') else v for p, v in flat.items()})


@cache
def weights_of(config=CONFIG):
    """Returns random weights and statistics, each layer's as a subtree, numpy."""
    size = config.image_size
    images = jnp.zeros((1, size, size, 3))
    tree = drawn(ResNet(config).init, jax.random.key(0), images, seed=5)['params']
    return positive(unstack_layers(tree))


def stacked(config=CONFIG, seams=()):
    """Returns `weights_of` as `ResNet(config, seams)` takes them."""
    return stack_layers(weights_of(config), (*config.seams, *seams))


def tuned(name, config=CONFIG, **options):
    """Builds a method's classifier; returns it with random (trainable, frozen) parameters."""
    method = get_method(name)
    options = method.with_prompts(options, PROMPTS)
    classifier = build_classifier(config, method, CLASSES, **options)
    # Away from zeros: what starts at zero would hold back what lies before it.
    added = drawn(classifier.init_added, jax.random.key(0))
    params = {'backbone': stacked(config, classifier.backbone.seams), **added}
    return classifier, *split(params, method.predicate(classifier.tuner, classifier.spec))
