"""The files of prepared TFDS data, checked before TFDS sees them.

TFDS imports the modules that `features.json` names, so that a folder from elsewhere could run any
code on the import path; only TFDS's own feature classes are let through. Its errors about damaged
files name no file; these do.
"""

import glob
import json
import re
from pathlib import Path
from typing import Any

from jax_prompt.data.tfds_folders import INFO

_FEATURES = 'features.json'
_OWN = re.compile(r'tensorflow_datasets\.core\.features\.([a-z0-9_]+\.)*[A-Za-z0-9_]+')
_PROTO = re.compile(r'tensorflow_datasets\.[A-Za-z0-9_.]+')
_CLASS_KEYS = ('pythonClassName', 'python_class_name')
_MOST_CLASSES = 1_000_000


def check_folder(folder: Path) -> None:
    """Checks the descriptions in the folder of prepared data.

    Raises:
      ValueError: one is damaged, or it names a class that is none of TFDS's features.
    """
    _object(folder / INFO)
    features = folder / _FEATURES
    if features.exists():
        _check_features(features, _object(features))
    for path in sorted(folder.glob('*.labels.txt')):
        _text(path)


def open_builder(folder: Path) -> Any:
    """Opens prepared data with TFDS, after its descriptions were checked.

    Raises:
      ValueError: TFDS can't read it.
    """
    check_folder(folder)
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
        _ = builder.info.full_name, builder.info.features, dict(builder.info.splits)
    except Exception as error:  # TFDS raises anything on descriptions that do not fit together
        text = ' '.join(str(error).split())[:300]
        raise ValueError(
            f'{folder}: {INFO} and {_FEATURES} are not what TFDS reads: '
            f'{type(error).__name__}: {text}'
        ) from error
    return builder


def check_counts(folder: Path, info: Any, split: str) -> None:
    """Compares the records of a split's files with what the description says.

    Args:
      folder: of the prepared data.
      info: TFDS's description, whose file format is array_record.
      split: the stored split.

    Raises:
      ValueError: a file is missing or damaged, lies elsewhere, or has other numbers of records.
    """
    stored = info.splits[split]
    for path, wanted in zip(stored.filepaths, stored.shard_lengths, strict=True):
        path = Path(path)
        if path.resolve().parent != folder.resolve():
            raise ValueError(f'{folder / INFO}: split {split!r} names {path}, outside its folder')
        if not path.is_file():
            raise ValueError(f'{path} is missing; its folder is not whole')
        found = _num_records(path)
        if found != wanted:
            raise ValueError(f'{path} has {found} examples; shardLengths in {INFO} says {wanted}')


def check_empty(folder: Path, split: str) -> None:
    """Checks that a split without examples, as the description says, has none in its files.

    Raises:
      ValueError: a file of the split holds examples.
    """
    for path in sorted(folder.glob(f'*-{glob.escape(split)}.array_record*')):
        if path.stat().st_size and (found := _num_records(path)):
            raise ValueError(f'{path} has {found} examples; shardLengths in {INFO} says 0')


def _num_records(path: Path) -> int:
    from array_record.python import array_record_module

    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        found = reader.num_records()
        reader.close()
    except (RuntimeError, OSError, ValueError, IndexError) as error:
        raise ValueError(f'{path}: not a readable array_record: {error}') from error
    return found


def _check_features(path: Path, value: Any) -> None:
    """Checks every class name in a tree of features, and the numbers of classes."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, list):
            todo += one
        if not isinstance(one, dict):
            continue
        todo += one.values()
        names = [(one.get(key), _OWN) for key in _CLASS_KEYS]
        if 'content' in one:  # how TFDS wrote features until 2022
            names += [(one.get('type'), _OWN), (one.get('proto_cls'), _PROTO)]
        for name, allowed in names:
            if isinstance(name, str) and not allowed.fullmatch(name):
                raise ValueError(
                    f"{path} names the class {name[:100]!r}; allowed are TFDS's own feature "
                    'classes, tensorflow_datasets.core.features....: TFDS would import any other'
                )
        for key in ('numClasses', 'num_classes'):
            count = str(one.get(key, 0))
            if not re.fullmatch(r'\d{1,7}', count) or int(count) > _MOST_CLASSES:
                raise ValueError(f'{path}: {key} is {count[:50]}; allowed: 0 to {_MOST_CLASSES:,}')


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f'{path}: not readable JSON: {error}') from error
    if not isinstance(value, dict):
        raise ValueError(f'{path}: holds {type(value).__name__}; wanted a JSON object')
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8')
    except OSError as error:
        raise ValueError(f'{path}: not readable: {error.strerror}') from error
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}: not UTF-8 text') from error
