"""A small ViT with random weights, run with a tuner."""

from functools import cache, partial

import jax
import numpy as np
from params import drawn

from jax_prompt.backbones.vit import ViT
from jax_prompt.backbones.vit_config import ViTConfig

CONFIG = ViTConfig(32, 3, 2, 64, 4, 16)
SPEC = CONFIG.spec()
IMAGES = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)


@cache
def backbone_of(config=CONFIG, seams=()):
    """Returns random weights of a ViT; they are shared, so that nobody may change them."""
    init = ViT(config, seams).init
    return drawn(init, jax.random.key(0), IMAGES, seed=5, scale=0.2)['params']


@partial(jax.jit, static_argnames=('config', 'tuner', 'seams', 'train'))
def features(config, backbone, tuner=None, params=None, seams=(), key=None, train=False):
    """Computes the features [2, D] of the images."""
    vit = ViT(config, seams)
    return vit.apply({'params': backbone}, IMAGES, tuner, params, key=key, train=train)


def largest(a, b):
    """Returns max |a - b|."""
    return float(np.abs(np.asarray(a - b)).max())
