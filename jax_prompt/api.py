"""The Python interface: `jax_prompt.tune`, `jax_prompt.load` and what both return, `Tuned`.

It does what the command does: `tune` is `jax-prompt train --config tune:...`, with the same
settings, defaults and results.

>>> import jax_prompt, numpy as np
>>> images = np.stack([np.full((32, 32, 3), 20 * i, np.uint8) for i in range(12)])
>>> labels = np.array(['dark'] * 6 + ['bright'] * 6)
>>> settings = {'method': 'linear', 'lr': 1e-2, 'epochs': 30, 'batch_size': 8}
>>> tuned = jax_prompt.tune((images, labels), quiet=True, **settings)
>>> tuned.classes_
array(['bright', 'dark'], dtype='<U6')
>>> tuned.predict(images[[0, 11]])
array(['dark', 'bright'], dtype='<U6')
>>> tuned.predict_proba(images).shape
(12, 2)
"""

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jax_prompt.data.handed import (
    are_paths,
    class_codes,
    class_values,
    find_classes,
    handed_split,
    label_names,
)
from jax_prompt.data.packed_writer import write_packed
from jax_prompt.packs.file import write_pack
from jax_prompt.packs.load import open_tuned
from jax_prompt.runs.config import RunConfig, resolve
from jax_prompt.runs.config_file import to_config_dict
from jax_prompt.runs.recipes import own_images
from jax_prompt.runs.restore import Restored, restore
from jax_prompt.runs.run import run
from jax_prompt.suite.keys import check_flags

__all__ = ['Tuned', 'load', 'tune']


def tune(
    data: Any,
    backbone: str = 'vit_micro',
    method: str = 'spt_deep',
    weights: str | Path | None = None,
    workdir: str | Path | None = None,
    *,
    quiet: bool = False,
    **settings: Any,
) -> 'Tuned':
    """Tunes a backbone to a task.

    Args:
      data: a folder with a subfolder a class, a packed .npz, the name of a task ('digits',
        'vtab/dtd'), or `(images, labels)`. Images are an array [B, H, W, 3], uint8 or floats in
        [0, 1], a list of arrays [H, W, 3], or a list of paths. Labels are names or whole numbers.
      backbone: `arch` or `arch.tag` (`jax-prompt backbones` lists them).
      method: what trains (`jax-prompt methods` lists them); 'a+b' combines methods.
      weights: the backbone's file; 'auto': the published one, from the cache or fetched; None: the
        weights that ship with the package.
      workdir: the run directory, which is enough to go on, to evaluate and to predict; None: a
        temporary one, removed with the result. Images from memory are written beside it, as
        WORKDIR-HASH.npz.
      quiet: print nothing.
      **settings: any key of a configuration: `epochs=20`, `num_prompts=5`, `seed=1`,
        `optim={'name': 'sgd'}` (`jax-prompt train --config tune --help` lists them). The learning
        rate is chosen on val among `search_lrs`; `lr=1e-3` sets it, and nothing is searched.

    Returns:
      The tuned classifier.

    Raises:
      ValueError: wrong data, a wrong setting, or a workdir that holds another run.
      FileNotFoundError: the backbone's file is not there; says where it is published.
    """
    temporary = Path(tempfile.mkdtemp(prefix='jax_prompt_')) if workdir is None else None
    place = temporary / 'run' if temporary else Path(str(workdir)).expanduser()
    try:
        with _errors_of_python():
            config = _configure(_data(data, place), backbone, method, weights, settings)
            result = run(config, place, quiet=quiet)
            tuned = Tuned(restore(place), place)
        assert tuned.result['trained_sha256'] == result['trained_sha256']
    except BaseException:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    if temporary:
        weakref.finalize(tuned, shutil.rmtree, temporary, ignore_errors=True)
    return tuned


def load(path: str | Path, weights: str | Path | None = None) -> 'Tuned':
    """Loads what was tuned.

    Args:
      path: a run directory, or a pack (`Tuned.save`, `jax-prompt pack`).
      weights: the backbone's file; None: it is looked for where it lay, in the package and among
        what was fetched; 'auto': it may be fetched.

    Raises:
      FileNotFoundError: nothing there, or the backbone's file is not found; says which is needed.
      ValueError: the run is not finished or damaged, or the file is another than the run's.
    """
    place = Path(path).expanduser()
    with _errors_of_python():
        return Tuned(open_tuned(place, weights), place)


class Tuned:
    """A tuned classifier.

    Attributes:
      classes_: the classes, in the order of `predict_proba`: names, or int64 where all names are
        whole numbers.
      result: the content of the run's result.json: accuracies, counts, times, versions.
      workdir: the run directory or the file that it was loaded from.
    """

    def __init__(self, run: Restored, workdir: Path):
        self._run, self.workdir = run, workdir
        self.classes_ = class_values(run.classes)
        self.result: dict[str, Any] = run.result

    def __repr__(self) -> str:
        config, count = self._run.config, self.result['num_trainable']
        task = f'{len(self.classes_)} classes of {self.result["data"]}'
        return f'Tuned({config.method} on {config.backbone}: {task}, {count:,} trained parameters)'

    def predict(self, images: Any) -> np.ndarray:
        """Returns the most probable class of each image, [n].

        Args:
          images: as in `tune`, or one path; of a folder, all images below it, sorted by path.

        Raises:
          ValueError: images that can't be read, or of a wrong shape, dtype or range.
        """
        return self.classes_[self.predict_proba(images).argmax(axis=1)]

    def predict_proba(self, images: Any) -> np.ndarray:
        """Returns the probability of each class, [n, K] float32; images as in `predict`."""
        return self._run.predict_split(handed_split(images))

    def score(self, images: Any, labels: Any) -> float:
        """Returns the share of images whose most probable class is their label."""
        return self.evaluate((images, labels))['accuracy']

    def evaluate(self, data: Any = None, split: str = 'test') -> dict[str, Any]:
        """Evaluates labelled images.

        Args:
          data: as in `tune`; None: the run's own data. The classes must be known.
          split: which split, where the data has splits: 'train', 'val' or 'test'.

        Returns:
          'accuracy', 'loss', 'num', 'split'. Where it applies, 'data' (other data than the run's),
          'data_changed' (since the run was trained) and 'seen_in_training'.

        Raises:
          ValueError: no such split, or a class that is not known.
        """
        if data is None or isinstance(data, str | Path):
            return self._run.evaluate(split, '' if data is None else str(data))
        images, labels = _pair(data)
        codes = class_codes(label_names(labels), self._run.classes)
        return self._run.evaluate_split(handed_split(images, codes))

    def save(self, path: str | Path) -> None:
        """Writes a pack: one small file with all but the backbone, for `load`.

        Raises:
          ValueError: the method trains the whole backbone, or another file lies there.
        """
        write_pack(self._run, path)


def _configure(
    data: str,
    backbone: str,
    method: str,
    weights: str | Path | None,
    settings: Mapping[str, Any],
) -> RunConfig:
    """Returns the configuration of `--config tune:...` with settings."""
    base = to_config_dict(own_images(data, method, backbone)).to_dict()
    check_flags(base, [f'--config.{key}=' for key in _keys(settings)])
    if 'lr' in settings and settings.get('search'):
        raise ValueError(
            f'lr is {settings["lr"]} and search=True, which tries search_lrs; give one of the two'
        )
    if 'lr' in settings:
        base['search'] = False
    return resolve(_merged(base, {'weights': str(weights or ''), **settings}))


def _keys(settings: Mapping[str, Any], prefix: str = '') -> Iterator[str]:
    """Yields the dotted keys of settings."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}'


def _merged(base: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for name, value in settings.items():
        if isinstance(value, Mapping) and isinstance(out.get(name), Mapping):
            out[name] = _merged(out[name], value)
        elif isinstance(value, np.generic):
            out[name] = value.item()
        else:
            out[name] = str(value) if isinstance(value, Path) else value
    return out


def _data(data: Any, workdir: Path) -> str:
    """Returns the data of a run; images from memory are written beside the run directory."""
    if isinstance(data, str | Path):
        return str(data)
    images, labels = _pair(data)
    names = label_names(labels)
    classes = find_classes(names)
    split = handed_split(images, class_codes(names, classes), 'train')
    paths = [Path(one).expanduser() for one in images] if are_paths(images) else []
    return str(write_packed(workdir, split, classes, paths))


def _pair(data: Any) -> tuple[Any, Any]:
    if not isinstance(data, tuple | list) or len(data) != 2 or are_paths(data):
        raise ValueError(
            f'data is {type(data).__name__}; allowed: a folder, a packed .npz, the name of a task, '
            'or (images, labels)'
        )
    images, labels = data
    return [images] if isinstance(images, str | Path) else images, labels


@contextmanager
def _errors_of_python() -> Iterator[None]:
    """Lets errors name settings as they are given here: weights=FILE, not --config.weights=FILE."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        if len(error.args) == 1:
            text = str(error.args[0]).replace(
                '--config FILE --help', 'jax-prompt train --config tune --help'
            )
            error.args = (text.replace('--config.', ''),)
        raise
