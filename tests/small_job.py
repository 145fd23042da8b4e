"""A tiny job: a linear head on stored numbers, whose program compiles in no time."""

from functools import cache
from pathlib import Path

import jax
import numpy as np
from params import drawn

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.spec import FEATURES
from jax_prompt.core.tree import Tree, split
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import METHODS
from jax_prompt.model import build_classifier
from jax_prompt.train.job import Data, Job
from jax_prompt.train.optim import Hyper, Optim
from jax_prompt.train.options import Engine
from jax_prompt.train.program import Program


@cache
def linear_head() -> tuple[Program, Tree]:
    """Returns a program of one epoch of one step, a head of 8 numbers and 2 classes, and it."""
    classifier = build_classifier(ViTConfig(8, 1, 2, 16, 4, 8), METHODS['linear'], 2)
    params = drawn(classifier.init, jax.random.key(0))
    trainable, _ = split(params, lambda path: path.startswith('head/'))
    program = Program(
        classifier=classifier,
        optim=Optim('sgd'),
        epochs=1,
        steps_per_epoch=1,
        augment=Augment(),
        image_size=8,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        start=FEATURES,
    )
    return program, trainable


def two_classes(count: int, seed: int = 0, apart: float = 1.0) -> Data:
    """Returns normal numbers [count, 8] of two classes in turn, `apart` between their means."""
    labels = (np.arange(count) % 2).astype(np.int32)
    noise = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    return Data(noise + np.float32(apart) * labels[:, None], labels)


def linear_job(
    name: str, folder: Path, data: Data, program: Program, lr: float = 1e-2, **changes
) -> Job:
    """Returns a job on one batch after another of 4, validated on its own examples.

    Args:
      name: its name, and its directory in `folder`.
      folder: where it and metrics.jsonl lie.
      data: its examples.
      program: of as many steps as they need.
      lr: learning rate.
      changes: other fields, and the engine's.
    """
    own = {key: changes.pop(key) for key in list(changes) if key in Engine.__dataclass_fields__}
    base = {'val': data, 'batch_size': 4, 'metrics': folder / 'metrics.jsonl', 'quiet': True}
    return Job(
        name=name,
        directory=folder / name,
        program=program,
        trainable=linear_head()[1],
        frozen={},
        hyper=Hyper(lr, 0.0, 0.0),
        seed=0,
        train=data,
        engine=Engine(**own),
        **base | changes,
    )
