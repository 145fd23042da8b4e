"""Parameters for tests: random ones of the shapes that init makes, noise on others, copies."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.core.tree import flatten, unflatten


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


def begun(classifier, seed=0):
    """Returns a random backbone, and what a method adds to it as its training starts."""
    backbone = drawn(classifier.init, jax.random.key(0), seed=seed)['backbone']
    return {'backbone': backbone, **jax.jit(classifier.init_added)(jax.random.key(seed))}
