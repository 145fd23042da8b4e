"""A run as training leaves it, with noise in the place of training."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.core.tree import count
from jax_prompt.data.kept import Kept
from jax_prompt.runs.backbone import build_backbone
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.program import build_program, init_params
from jax_prompt.runs.restore import Restored
from jax_prompt.runs.result import measured_hash


def noisy_run(config: RunConfig, classes=('dark', 'bright'), seed: int = 0) -> Restored:
    """Makes a finished run, in memory."""
    backbone = build_backbone(config)
    program = build_program(config, backbone, len(classes), 8)
    trainable, frozen = init_params(config, backbone, program.classifier)
    rng = np.random.default_rng(seed)
    noise = lambda x: (x + 0.05 * rng.standard_normal(x.shape)).astype(x.dtype)  # noqa: E731
    trainable = jax.tree.map(lambda x: np.asarray(noise(x)), trainable)
    added = {key: jax.tree.map(noise, tree) for key, tree in frozen.items() if key != 'backbone'}
    frozen = frozen | jax.tree.map(jnp.asarray, added)
    result = {
        'method': config.method,
        'backbone': config.backbone,
        'seed': config.seed,
        'classes': list(classes),
        'weights': backbone.identity.to_dict() if backbone.identity else None,
        'mean': list(backbone.mean),
        'std': list(backbone.std),
        'data': 'some/data set',
        'data_fingerprint': '0123abcd',
        'num_examples': {'train': 24, 'val': 8, 'test': 10},
        'trained_on': 'train',
        'trained_sha256': measured_hash(config, trainable, frozen),
        'num_trainable': count(trainable),
        'num_trainable_head': count(trainable['head']),
        'test_accuracy': 0.75,
        'test_loss': 0.5,
        'test_accuracy_best_val': None,
        'val_accuracy': 0.5,
        'best_val_accuracy': 0.5,
        'best_val_epoch': 1,
        **{'lr': 0.01, 'weight_decay': 0.0, 'head_weight_decay': 0.0},
        'versions': {'jax_prompt': '0.1'},
    }
    kept = Kept('0123abcd', tuple(classes), dict(result['num_examples']), {})
    return Restored(config, result, program, trainable, frozen, kept)
