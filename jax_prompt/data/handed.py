"""Images and labels that a user hands over in Python: arrays or paths, checked at the door.

Training and prediction read them by one rule. Files are decoded by `decode.py`. Arrays are taken as
decoded images: uint8 as it is, floats in [0, 1] rounded to uint8. Both are then resized as the
images of a folder are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_prompt.core.printable import printable
from jax_prompt.data.decode import decode_image
from jax_prompt.data.files import find_images, read_file
from jax_prompt.data.given import check_images
from jax_prompt.data.source import Split

_NAMED = 5  # labels that an error names


def are_paths(images: Any) -> bool:
    """Whether images are given as a path or as a sequence of paths."""
    if isinstance(images, str | Path):
        return True
    several = isinstance(images, Sequence) or getattr(images, 'dtype', np.dtype(int)).kind in 'UO'
    return several and len(images) > 0 and all(isinstance(one, str | Path) for one in images)


def handed_split(images: Any, labels: np.ndarray | None = None, name: str = 'given') -> Split:
    """Returns the split of images that are handed over.

    Args:
      images: [B, H, W, 3] uint8 or floats in [0, 1]; a sequence of such [H, W, 3], whose sizes may
        differ; a sequence of paths; without labels also one path, and folders among the paths.
      labels: [B] int32, indices of classes; None: all 0, for a prediction.
      name: of the split.

    Raises:
      ValueError: no images, a wrong shape, dtype or range, or another number of labels.
      FileNotFoundError: a path that isn't there, or a folder without images.
    """
    if are_paths(images):
        given = [images] if isinstance(images, str | Path) else list(images)
        paths = (
            find_images(given, []) if labels is None else [Path(one).expanduser() for one in given]
        )
        names = [printable(str(path)) for path in paths]
        return _split(name, labels, names, lambda i: decode_image(read_file(paths[i]), names[i]))
    checked = _check(images)
    names = [f'images[{i}]' for i in range(len(checked))]
    return _split(name, labels, names, lambda i: _pixels(checked[i]))


def _split(name: str, labels: np.ndarray | None, names: list[str], read: Any) -> Split:
    if not names:
        raise ValueError('there are no images; give at least one')
    if labels is not None and len(labels) != len(names):
        raise ValueError(f'{len(names)} images and {len(labels)} labels; give one label an image')
    own = np.zeros(len(names), np.int32) if labels is None else labels
    return Split(name, own, read, lambda i: names[i])


def _check(images: Any) -> Any:
    """Returns images as an array [B, H, W, 3], or as a list of [H, W, 3]."""
    if hasattr(images, 'shape') and hasattr(images, 'dtype'):
        images = np.asarray(images)
        if images.dtype == object:
            raise ValueError('images are an array of objects; give a list of arrays [H, W, 3]')
        if len(images.shape) != 4 or len(images):
            check_images(images, any_size=True)
        return images
    if not isinstance(images, Sequence):
        raise ValueError(
            f'images are {type(images).__name__}; allowed: an array [B, H, W, 3], a list of arrays '
            '[H, W, 3], a path, or a list of paths'
        )
    several = [np.asarray(one) for one in images]
    for i, one in enumerate(several):
        try:
            check_images(one[None], any_size=True)
        except ValueError as error:
            raise ValueError(f'images[{i}]: {error}') from error
    return several


def _pixels(image: np.ndarray) -> np.ndarray:
    """Returns an image [H, W, 3] as uint8."""
    if image.dtype == np.uint8:
        return image
    values = np.clip(np.asarray(image, np.float32), 0.0, 1.0)
    return np.rint(values * 255).astype(np.uint8)


def label_names(labels: Any) -> list[str]:
    """Returns the class name of each label: a text as it is, a whole number as its digits.

    Raises:
      ValueError: labels of another kind.

    >>> label_names([2, 0, 10])
    ['2', '0', '10']
    """
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in 'iuUO':
        way_out = {1: 'labels.astype(int)', 2: 'labels.argmax(axis=1), if a row has a 1'}
        numbers = array.dtype.kind in 'iufb' and array.ndim in way_out
        raise ValueError(
            f'labels are {array.dtype} of shape {list(array.shape)}; allowed: one whole number or '
            f'one name an image{f" ({way_out[array.ndim]})" if numbers else ""}'
        )
    wrong = [
        one for one in array.tolist() if isinstance(one, bool) or not isinstance(one, str | int)
    ]
    if wrong:
        raise ValueError(f'a label is {wrong[0]!r}; allowed: whole numbers or names')
    return [str(one) for one in array.tolist()]


def find_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the classes of labels: whole numbers by size, other names by the alphabet.

    Raises:
      ValueError: all labels are the same.

    >>> find_classes(['10', '2', '2'])
    ('2', '10')
    """
    unique = set(names)
    if len(unique) == 1:
        raise ValueError(f'every label is {min(unique)!r}; a task has at least two classes')
    return tuple(sorted(unique, key=int) if all(map(_is_number, unique)) else sorted(unique))


def class_values(classes: Sequence[str]) -> np.ndarray:
    """Returns classes as predictions name them: int64 where all are whole numbers, else text."""
    if all(map(_is_number, classes)):
        return np.array([int(one) for one in classes], np.int64)
    return np.array(list(classes))


def class_codes(names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Returns the index of each label's class, int32.

    Raises:
      ValueError: labels that are none of the classes.
    """
    place = {name: i for i, name in enumerate(classes)}
    unknown = [one for one in dict.fromkeys(names) if one not in place]
    if unknown:
        raise ValueError(
            f'labels {unknown[:_NAMED]} are none of the {len(classes)} classes: '
            f'{list(classes)[:20]}'
        )
    return np.array([place[name] for name in names], np.int32)


def _is_number(name: str) -> bool:
    digits = name.removeprefix('-')
    return digits.isascii() and digits.isdigit() and str(int(name)) == name and len(name) < 19
