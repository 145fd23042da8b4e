"""A small ViT with random weights, run with a tuner."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
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


def copied(tree):
    """Returns a tree's arrays again, for a step that gives up its own. `jnp.copy` would compile a
    program for each shape."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.array(leaf)), tree)


def drawn(init, *args, seed=0, scale=0.1):
    """Draws parameters of the shapes that `init` makes, numpy, without compiling it, which often
    takes longer than a test: kernels by their inputs, scales around one, all else around zero."""
    rng = np.random.default_rng(seed)

    def draw(path, like):
        noise, name = rng.normal(size=like.shape), path.rpartition('/')[2]
        if name == 'kernel':
            inputs = like.shape[-2] if like.ndim < 4 else math.prod(like.shape[-4:-1])
            noise /= math.sqrt(inputs)
        else:
            noise = scale * noise + (name in ('scale', 'var', 'temperatures'))
        return noise.astype(like.dtype)

    shapes = flatten(jax.eval_shape(init, *args))
    return unflatten({path: draw(path, like) for path, like in shapes.items()})


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
