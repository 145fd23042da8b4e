"""Packs of tiny images, and what their runs predict."""

from functools import cache

import numpy as np
from small_pack import noisy_run

from jax_prompt.packs.file import pack_of
from jax_prompt.runs.config import resolve
from jax_prompt.train.program import make_logits

NAMES = ('red', 'green', 'blue', 'grey', 'pink')


@cache
def tuned(method='vpt_deep', seed=0, classes=2, **changes):
    """Makes a run of a method, with noise in the place of training; ((name, value),) is a dict."""
    plain = {k: dict(v) if isinstance(v, tuple) else v for k, v in changes.items()}
    base = {
        'data': 'some/data set',
        'backbone': 'vit_micro',
        'method': method,
        'image_size': 16,
        'num_prompts': 2,
        'epochs': 2,
        'batch_size': 8,
        'lr': 1e-2,
        'search': False,
        'engine': {'num_devices': 1, 'checkpoint_seconds': 0.0, 'eval_batch_size': 8},
    }
    return noisy_run(resolve(base | plain), NAMES[:classes], seed)


@cache
def packed(*args, **changes):
    return pack_of(tuned(*args, **changes))


def own_logits(run, images):
    """What a run itself gives for images."""
    return np.asarray(make_logits(run.program, run.trainable, run.frozen, images))
