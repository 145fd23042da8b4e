"""From a finished run directory back to a classifier: for evaluation and prediction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_prompt.core.json_file import load_object
from jax_prompt.core.printable import printable
from jax_prompt.core.tree import Tree
from jax_prompt.data.decode import decode_image
from jax_prompt.data.files import read_file
from jax_prompt.data.kept import Kept
from jax_prompt.data.open import Split
from jax_prompt.evals.classify import evaluate, forward, require_finite
from jax_prompt.methods import get_method
from jax_prompt.runs.backbone import build_backbone, check_content
from jax_prompt.runs.config import RunConfig, resolve
from jax_prompt.runs.inputs import load_split
from jax_prompt.runs.kept import kept_of, open_evaluated
from jax_prompt.runs.paths import absolute_path
from jax_prompt.runs.prepare import initial
from jax_prompt.runs.prompts import prototypes_path, read_prototypes
from jax_prompt.runs.prune import read_pruned
from jax_prompt.runs.result import measured_hash
from jax_prompt.runs.workdir import RESULT_AGAIN
from jax_prompt.train.checkpoint import Checkpoints, DamagedCheckpoint
from jax_prompt.train.program import Program, TrainState, make_logits
from jax_prompt.weights.fetch import AUTO
from jax_prompt.weights.identity import Identity

_NEEDED = ('classes', 'weights', 'trained_on', 'checkpoint')  # of result.json, to restore a run
_AGAIN = (
    'remove it and result.json, and start jax-prompt train again: both are made anew from the last '
    'checkpoint'
)
_PROMPTS_ANEW = (
    'remove result.json and start jax-prompt train again on this --workdir: it builds the prompts '
    'again, to the same values'
)


@dataclass(frozen=True)
class Restored:
    """A finished run, ready to be used.

    Attributes:
      config: its configuration, with the number of prompts that a search chose.
      result: the content of its result.json.
      program: maps stored images to logits.
      trainable: what was trained (the last epoch's, or its average where one was kept).
      frozen: the rest.
      kept: what the run keeps of its data.
    """

    config: RunConfig
    result: dict[str, Any]
    program: Program
    trainable: Tree
    frozen: Tree
    kept: Kept

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the logits."""
        return self.result['classes']

    def evaluate(self, split: str, data: str = '') -> dict[str, Any]:
        """Evaluates a split of the run's data, or other data whose classes it knows.

        The run's own data is compared with what it was; see `kept.open_evaluated`.

        Raises:
          ValueError: no such split, other classes, or data that changed.
          NonFiniteLogits: the network gives logits that are not finite.
        """
        opened, said = open_evaluated(self.config, self.kept, self.result, split, data)
        return self.evaluate_split(opened) | said

    def evaluate_split(self, split: Split) -> dict[str, Any]:
        """Evaluates labelled images; their labels are indices into `classes`."""
        images, labels = load_split(self.config, split, self.program.image_size)
        size = self.config.engine.eval_batch_size
        got = evaluate(
            partial(make_logits, self.program), self.trainable, self.frozen, images, labels, size
        )
        found = {'accuracy': got.accuracy, 'loss': got.loss, 'num': len(labels)}
        return {'split': split.name, **found}

    def predict(self, paths: Sequence[str | Path]) -> np.ndarray:
        """Computes class probabilities of image files, [n, K] float32.

        Raises:
          ValueError: files that can't be decoded, by name.
          NonFiniteLogits: the network gives logits that are not finite.
        """
        names = [str(path) for path in paths]

        def read(i: int) -> np.ndarray:
            return decode_image(read_file(Path(names[i])), printable(names[i]))

        labels = np.zeros(len(names), np.int32)
        return self.predict_split(Split('predict', labels, read, lambda i: names[i]))

    def predict_split(self, split: Split) -> np.ndarray:
        """Computes class probabilities of a split's images, as `predict` does."""
        names = [split.where(i) for i in range(len(split))]
        images, _ = load_split(self.config, split, self.program.image_size)
        size = min(self.config.engine.eval_batch_size, len(names))
        logits = forward(
            partial(make_logits, self.program), self.trainable, self.frozen, images, size
        )
        require_finite(logits, names)
        return np.asarray(jax.nn.softmax(logits, axis=-1))


def restore(workdir: str | Path, weights_file: str | Path = '') -> Restored:
    """Restores a finished run, on one device, whatever it was trained on.

    Args:
      workdir: the run directory.
      weights_file: where the backbone's file lies now; '': where it lay when the run was trained;
        'auto': the published file, from the cache or fetched.

    Raises:
      FileNotFoundError: no run there, or its weights file is gone.
      ValueError: the run is not finished, the weights file is another than the run's, or the
        checkpoint that its result measured is gone, damaged or changed.
    """
    workdir = Path(workdir).expanduser()
    if not (workdir / 'config.json').exists():
        inside = [path.parent.name for path in sorted(workdir.glob('*/config.json'))[:3]]
        named = f' (in it {", ".join(inside)})' if inside else ''
        raise FileNotFoundError(
            f'{workdir} holds no run; give a --workdir of jax-prompt train{named}'
        )
    config = read_config(workdir / 'config.json')
    config = replace(config, engine=replace(config.engine, num_devices=1, fsdp=1))
    config = _with_weights(config, str(weights_file))
    if not (workdir / 'result.json').exists():
        raise ValueError(f'the run in {workdir} is not finished; start it again to go on')
    result = load_object(workdir / 'result.json', RESULT_AGAIN, _NEEDED)
    if config.search and config.search_num_prompts:
        config = replace(config, num_prompts=result['num_prompts'])
    if (path := workdir / 'pruned.json').exists():
        kept = read_pruned(path, config.prune, config.num_prompts, _AGAIN)
        config = replace(config, tuner={**config.tuner, 'kept': kept})
    known = result['weights']
    backbone = build_backbone(config, Identity.from_dict(known) if known else None)
    check_content(backbone, result.get('backbone_sha256', ''), config.weights, _as_trained(known))
    num_classes = len(result['classes'])
    program, trainable, frozen = initial(config, backbone, num_classes, config.batch_size)
    like = {
        'state': program.init(trainable)._asdict(),
        'best': trainable if result['trained_on'] == 'train' else {},
    }
    weights = program.weights(TrainState(**_measured(result, workdir, like)['state']))
    if get_method(config.method).calibrated and not config.train_prompts:
        prompts, _ = read_prototypes(prototypes_path(config, workdir), _PROMPTS_ANEW)
        tuner = program.classifier.tuner.calibrated(frozen['tuner'], prompts)
        frozen = {**frozen, 'tuner': tuner}
    if measured_hash(config, weights, frozen) != result['trained_sha256']:
        raise ValueError(
            f'{workdir / result["checkpoint"]} holds other weights than those that '
            f'{workdir}/result.json measured. {_MEASURE_ANEW}'
        )
    return Restored(config, result, program, weights, frozen, kept_of(workdir, result))


def _as_trained(known: dict[str, Any] | None) -> str:
    original = f': {known["source"]} with sha256 {known["sha256"]}' if known else ''
    return f'the run needs them as it was trained on them{original}'


def _with_weights(config: RunConfig, weights: str) -> RunConfig:
    """Returns the configuration with the file where it lies now.

    Raises:
      FileNotFoundError: it is not there; says what to give.
      ValueError: the method takes no file.
    """
    if weights:
        if not get_method(config.method).pretrained:
            raise ValueError(f'method {config.method} has no weights file; leave --weights out')
        config = replace(config, weights=weights if weights == AUTO else absolute_path(weights))
    if config.weights not in ('', AUTO) and not Path(config.weights).expanduser().is_file():
        raise FileNotFoundError(
            f'the weights {config.weights} are not there; if they were moved or renamed, give '
            '--weights FILE (it is compared with what the run was trained on)'
        )
    return config


_MEASURE_ANEW = (
    'Remove result.json and start jax-prompt train again on this --workdir: it goes on from what '
    'is whole and comes to the same bits'
)


def _measured(result: dict[str, Any], workdir: Path, like: Tree) -> Tree:
    """Reads the checkpoint that a result measured, and no other.

    Raises:
      ValueError: it is gone or damaged, or the result does not say which it is.
    """
    directory, step = workdir / result['checkpoint'], result.get('checkpoint_step')
    if step is None or 'trained_sha256' not in result:
        raise ValueError(
            f'{workdir}/result.json does not say which checkpoint it measured; an earlier version '
            f'of jax_prompt wrote it. {_MEASURE_ANEW}'
        )
    if not (directory / str(step)).is_dir():
        raise ValueError(
            f'{directory / str(step)} is missing, and {workdir}/result.json measured that '
            f'checkpoint. {_MEASURE_ANEW}'
        )
    checkpoints = Checkpoints(directory)
    try:
        return checkpoints.restore(like, step)[0]
    except DamagedCheckpoint as error:
        raise ValueError(f'{error}. {_MEASURE_ANEW}') from error
    finally:
        checkpoints.close()


def read_config(path: Path) -> RunConfig:
    """Reads the configuration that a run saved.

    Raises:
      ValueError: it is damaged, or holds what this version does not allow; names the file.
    """
    way_out = 'put it back from a copy'
    values = load_object(path, way_out)
    try:
        return resolve(values)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f'{path} holds no configuration ({error}): {way_out}') from error
