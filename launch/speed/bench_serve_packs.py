"""Packs of noise on a backbone of noise, for the benchmarks of serving."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_prompt.backbones.architectures import ARCHITECTURES
from jax_prompt.backbones.families import family_of
from jax_prompt.core.tree import count, unstack_layers
from jax_prompt.data.kept import Kept
from jax_prompt.methods import get_method
from jax_prompt.packs.file import Pack, pack_of
from jax_prompt.runs.backbone import build_backbone
from jax_prompt.runs.config import RunConfig, resolve
from jax_prompt.runs.program import build_program, init_params
from jax_prompt.runs.restore import Restored
from jax_prompt.runs.result import measured_hash
from jax_prompt.weights.identity import Identity
from jax_prompt.weights.load import save_converted

_HALF = (0.5, 0.5, 0.5)


def write_backbone(arch: str, path: Path) -> None:
    """Writes random weights of an architecture."""
    config, rng = ARCHITECTURES[arch], np.random.default_rng(0)
    size = config.image_size
    network = family_of(config).make(config, ())
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, size, size, 3), 'f4'))
    layers = jax.eval_shape(unstack_layers, shapes['params'])
    tree = jax.tree.map(lambda s: 0.02 * rng.standard_normal(s.shape, np.float32), layers)
    identity = Identity(arch, 'noise', '0' * 64, 'jax_prompt', _HALF, _HALF, asked=arch)
    save_converted(path, tree, identity)


def config_of(arch: str, method: str, prompts: int, weights: Path) -> RunConfig:
    """Returns a run's configuration."""
    changes = {'num_prompts': prompts} if get_method(method).has_prompts else {}
    engine = {'num_devices': 1, 'eval_batch_size': 64}
    base = {'data': 'noise', 'backbone': arch, 'weights': str(weights), 'method': method}
    return resolve(base | changes | {'search': False, 'lr': 1e-3, 'engine': engine})


def make_run(config: RunConfig, classes: int) -> Restored:
    """Returns a run of noise."""
    backbone = build_backbone(config)
    program = build_program(config, backbone, classes, 64)
    trainable, frozen = init_params(config, backbone, program.classifier)
    trainable = jax.tree.map(np.asarray, trainable)
    assert backbone.identity is not None
    result: dict[str, Any] = {
        'method': config.method,
        'backbone': config.backbone,
        'seed': 0,
        'classes': [f'class {i}' for i in range(classes)],
        'weights': backbone.identity.to_dict(),
        **{'mean': list(backbone.mean), 'std': list(backbone.std)},
        **{'data': 'noise', 'data_fingerprint': '0', 'num_examples': {'train': 64}},
        **{'trained_on': 'train', 'trained_sha256': measured_hash(config, trainable, frozen)},
        'num_trainable': count(trainable),
        'num_trainable_head': count(trainable['head']),
        **dict.fromkeys(('test_accuracy', 'test_loss', 'test_accuracy_best_val')),
        **dict.fromkeys(('val_accuracy', 'best_val_accuracy', 'best_val_epoch')),
        **{'lr': 1e-3, 'weight_decay': 0.0, 'head_weight_decay': 0.0, 'versions': {}},
    }
    return Restored(config, result, program, trainable, frozen, Kept('0', (), {}, {}))


def noisy_packs(run: Restored, number: int) -> list[Pack]:
    """Returns packs of the run's kind, each with noise of its own."""
    first, out = pack_of(run), []
    for seed in range(number):
        rng = np.random.default_rng(seed)
        trained = jax.tree.map(
            lambda x, rng=rng: x + 0.02 * rng.standard_normal(x.shape, np.float32), run.trainable
        )
        digest = measured_hash(run.config, trained, run.frozen)
        result = {**first.header.result, 'trained_sha256': digest}
        tree = {**first.tree, **trained}
        out.append(Pack(first.header._replace(result=result), tree, digest))
    return out


def as_run(run: Restored, pack: Pack) -> Restored:
    """Returns a pack of `noisy_packs` as a run, with a copy of the backbone of its own."""
    own = jax.tree.map(jax.numpy.copy, run.frozen)
    return replace(run, trainable=pack.tree, frozen=own)
