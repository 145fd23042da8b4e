"""A run as training leaves it, with noise in the place of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.core.tree import count
from jax_prompt.data.kept import Kept
from jax_prompt.runs.backbone import build_backbone
from jax_prompt.runs.program import build_program, init_params
from jax_prompt.runs.restore import Restored
from jax_prompt.runs.result import measured_hash


@pytest.fixture
def make_run(make_config):
    """Returns a function that makes a finished run of a method, in memory."""

    def make(method, **changes):
        config = make_config(method=method, **{'image_size': 16, 'weights': '', **changes})
        backbone = build_backbone(config)
        program = build_program(config, backbone, 2, 8)
        trainable, frozen = init_params(config, backbone, program.classifier)
        rng = np.random.default_rng(0)
        noise = lambda x: (x + 0.05 * rng.standard_normal(x.shape)).astype(x.dtype)  # noqa: E731
        trainable = jax.tree.map(lambda x: np.asarray(noise(x)), trainable)
        added = {
            key: jax.tree.map(noise, tree) for key, tree in frozen.items() if key != 'backbone'
        }
        frozen = frozen | jax.tree.map(jnp.asarray, added)
        result = {
            'method': method,
            'backbone': config.backbone,
            'seed': config.seed,
            'classes': ['dark', 'bright'],
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
        kept = Kept('0123abcd', ('dark', 'bright'), dict(result['num_examples']), {})
        return Restored(config, result, program, trainable, frozen, kept)

    return make
