"""From a finished run directory back to a classifier: for evaluation and prediction."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_prompt.core.tree import Tree, merge, unstack_layers
from jax_prompt.data.decode import decode_image
from jax_prompt.data.sources import Split
from jax_prompt.evals.classify import evaluate, forward
from jax_prompt.methods import get_method
from jax_prompt.train.build import build_backbone, build_program, init_params
from jax_prompt.train.checkpoint import Checkpoints
from jax_prompt.train.config import RunConfig, resolve
from jax_prompt.train.paths import absolute_path
from jax_prompt.train.prototypes import prototypes_path
from jax_prompt.train.splits import load_split, open_data
from jax_prompt.train.step import Program, TrainState, make_logits


@dataclass(frozen=True)
class Restored:
    """A finished run, ready to be used.

    Attributes:
      config: its configuration, with the number of prompts that a search chose.
      result: the content of its result.json.
      program: maps stored images to logits.
      trainable: what was trained (the last epoch's, or its average where one was kept).
      frozen: the rest.
    """

    config: RunConfig
    result: dict[str, Any]
    program: Program
    trainable: Tree
    frozen: Tree

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the logits."""
        return self.result['classes']

    def evaluate(self, split: str, data: str = '') -> dict[str, Any]:
        """Evaluates a split of the run's data, or of other data with the same classes.

        Raises:
          ValueError: no such split, or other classes.
        """
        source = open_data(self.config, data or self.config.data)
        if split not in source.splits:
            raise ValueError(
                f'{source.name} has no split {split!r}; it has {sorted(source.splits)}'
            )
        if list(source.classes) != self.classes:
            raise ValueError(
                f'{source.name} has the classes {list(source.classes)}; this run knows '
                f'{self.classes}, in that order'
            )
        part = load_split(self.config, source.splits[split], self.program.image_size)
        images, labels = part
        size = self.config.engine.eval_batch_size
        got = evaluate(
            partial(make_logits, self.program), self.trainable, self.frozen, images, labels, size
        )
        return {'split': split, 'accuracy': got.accuracy, 'loss': got.loss, 'num': len(labels)}

    def predict(self, paths: Sequence[str | Path]) -> np.ndarray:
        """Computes class probabilities of image files, [n, K] float32.

        Raises:
          ValueError: files that can't be decoded, by name.
        """
        names = [str(path) for path in paths]

        def read(i: int) -> np.ndarray:
            return decode_image(Path(names[i]).read_bytes(), names[i])

        split = Split('predict', np.zeros(len(names), np.int32), read, lambda i: names[i])
        images, _ = load_split(self.config, split, self.program.image_size)
        size = min(self.config.engine.eval_batch_size, len(names))
        logits = forward(
            partial(make_logits, self.program), self.trainable, self.frozen, images, size
        )
        return np.asarray(jax.nn.softmax(logits, axis=-1))

    def backbone(self) -> Tree:
        """Returns the backbone's parameters in per-layer form, numpy (for export)."""
        params = merge(self.trainable, self.frozen)['backbone']
        return jax.tree.map(np.asarray, unstack_layers(params))


def restore(workdir: str | Path, weights_file: str | Path = '') -> Restored:
    """Restores a finished run, on one device, whatever it was trained on.

    Args:
      workdir: the run directory.
      weights_file: where the backbone's file lies now; '': where it lay when the run was trained.

    Raises:
      FileNotFoundError: no run there, or its weights file is gone.
      ValueError: the run is not finished, or the weights file is another than the run's.
    """
    workdir = Path(workdir).expanduser()
    if not (workdir / 'config.json').exists():
        raise FileNotFoundError(f'{workdir} holds no run; give a --workdir of launch/train.py')
    config = resolve(json.loads((workdir / 'config.json').read_text(encoding='utf-8')))
    config = replace(config, engine=replace(config.engine, num_devices=1, fsdp=1))
    config = _with_weights(config, str(weights_file))
    if not (workdir / 'result.json').exists():
        raise ValueError(f'the run in {workdir} is not finished; start it again to go on')
    result = json.loads((workdir / 'result.json').read_text(encoding='utf-8'))
    if (workdir / 'pruned.json').exists():
        pruned = json.loads((workdir / 'pruned.json').read_text(encoding='utf-8'))
        config = replace(config, tuner={**config.tuner, 'kept': pruned['kept']})
    if config.search and config.search_num_prompts:
        config = replace(config, num_prompts=result['num_prompts'])
    backbone = build_backbone(config)
    _same_weights(result, backbone.identity, workdir)
    program = build_program(config, backbone, len(result['classes']), config.batch_size)
    trainable, frozen = init_params(config, backbone, program.classifier)
    like = {
        'state': program.init(trainable)._asdict(),
        'best': trainable if result['trained_on'] == 'train' else {},
    }
    checkpoints = Checkpoints(workdir / result['checkpoint'])
    try:
        tree, _ = checkpoints.restore(like)
    finally:
        checkpoints.close()
    weights = program.weights(TrainState(**tree['state']))
    prototypes = prototypes_path(config, workdir)
    if not config.train_prompts and prototypes.exists():
        frozen = _frozen_prompts(frozen, prototypes, program)
    return Restored(config, result, program, weights, frozen)


def _with_weights(config: RunConfig, weights: str) -> RunConfig:
    """Returns the configuration with the file where it lies now.

    Raises:
      FileNotFoundError: it is not there; says what to give.
      ValueError: the method takes no file.
    """
    if weights:
        if not get_method(config.method).pretrained:
            raise ValueError(f'method {config.method} has no weights file; leave --weights out')
        config = replace(config, weights=absolute_path(weights))
    if config.weights and not Path(config.weights).expanduser().is_file():
        raise FileNotFoundError(
            f'the weights {config.weights} are not there; if they were moved or renamed, give '
            '--weights FILE (it is compared with what the run was trained on)'
        )
    return config


def _same_weights(result: dict[str, Any], identity: Any, workdir: Path) -> None:
    asked = (result['weights'] or {}).get('sha256')
    found = identity.sha256 if identity else None
    if asked != found:
        raise ValueError(
            f'the run in {workdir} was trained on weights with sha256 {asked}; the file now has '
            f'{found}. Put the original file back, or name it: --weights FILE'
        )


def _frozen_prompts(frozen: Tree, path: Path, program: Program) -> Tree:
    with np.load(path, allow_pickle=False) as saved:
        prompts = saved['prompts']
    return {**frozen, 'tuner': program.classifier.tuner.calibrated(frozen['tuner'], prompts)}
