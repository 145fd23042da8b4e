"""What both sides of `speed.py step` and `forward` compute: weights, and one batch."""

from typing import Any

import jax
import numpy as np

from jax_prompt.backbones.architectures import Config
from jax_prompt.core.tree import flatten, unstack_layers
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier


def options_of(name: str, prompts: int, iterations: int) -> dict[str, Any]:
    """Returns the tuner's options.

    LION's solves have a fixed length, so that both sides do the same work: plain iteration, which
    no tolerance ends.
    """
    options = get_method(name).with_prompts({}, prompts)
    if name == 'lion':
        options['solver'] = 'plain'
        for kind in ('', 'eval_', 'backward_'):
            options |= {f'{kind}rtol': 0.0, f'{kind}max_iter': iterations}
    return options


def make_problem(
    config: Config, method: str, options: dict[str, Any], batch: int, classes: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Makes random weights in the canonical per-layer form, and one batch.

    Args:
      config: the backbone's configuration.
      method: name of the method.
      options: of its tuner.
      batch: B.
      classes: K.
      seed: of all of it.

    Returns:
      {'backbone/block_00/...', 'tuner/...', 'head/kernel' [D, K], 'head/bias' [K]: float32,
      'images': [B, H, W, 3] uint8, 'labels': [B] int32}.
    """
    model = build_classifier(config, get_method(method), classes, **options)
    key, rng = jax.random.key(seed), np.random.default_rng(seed)
    layers = jax.eval_shape(lambda key: unstack_layers(model.init(key)['backbone']), key)
    problem = {}
    for path, leaf in flatten(layers).items():
        noise = rng.standard_normal(leaf.shape, np.float32)
        # Convolutions keep the variance of what they see, as no running statistics fit it.
        std = np.prod(leaf.shape[:3]) ** -0.5 if leaf.ndim == 4 else 0.02
        centre = 1.0 if path.rsplit('/', 1)[-1] in ('scale', 'var') else 0.0
        problem[f'backbone/{path}'] = np.float32(centre) + np.float32(std) * noise
    for path, leaf in flatten(jax.jit(model.init_added)(key)).items():
        # LION's blocks as they are after some training: as strong as the clip lets them be, so that
        # their fixed points are not reached to the last bit.
        scale = 10.0 if path.endswith('/layer_00/out/kernel') else 1.0
        problem[path] = np.float32(scale) * np.asarray(leaf)
    size = config.image_size
    problem['images'] = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    problem['labels'] = rng.integers(0, classes, batch, np.int32)
    return problem
