"""A small ViT with random weights, run with a tuner."""

from functools import cache, partial

import jax
import numpy as np

from jax_prompt.backbones.vit import ViT
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.tree import flatten, unflatten

CONFIG = ViTConfig(32, 3, 2, 64, 4, 16)
SPEC = CONFIG.spec()
IMAGES = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)


def noisy(tree, seed=0, scale=0.2):
    """Adds normal noise to every leaf, so that nothing is zero, one or equal."""
    rng = np.random.default_rng(seed)
    return unflatten(
        {
            path: leaf + np.float32(scale) * rng.normal(size=leaf.shape).astype(np.float32)
            for path, leaf in flatten(tree).items()
        }
    )


@cache
def backbone_of(config=CONFIG, seams=()):
    """Returns noisy weights of a ViT; they are shared, so that nobody may change them."""
    init = jax.jit(ViT(config, seams).init)
    return noisy(init(jax.random.key(0), IMAGES)['params'], 5)


@partial(jax.jit, static_argnames=('config', 'tuner', 'seams', 'train'))
def features(config, backbone, tuner=None, params=None, seams=(), key=None, train=False):
    """Computes the features [2, D] of the images."""
    vit = ViT(config, seams)
    return vit.apply({'params': backbone}, IMAGES, tuner, params, key=key, train=train)


def largest(a, b):
    """Returns max |a - b|."""
    return float(np.abs(np.asarray(a - b)).max())
