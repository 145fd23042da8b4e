"""Labels of large prepared sets, kept beside the data: reading them reads every record once.

ImageNet's 1.28 million records are 150 GB, its labels 5 MB. A file appears whole, under a name that
says what it holds; its archive has a checksum, and a damaged one is written anew. Where the folder
can't be written, labels are read again every time.
"""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jax_prompt.core.files import whole_file
from jax_prompt.core.npz import list_arrays, read_array

_LOG = logging.getLogger(__name__)
_VERSION = 1  # of the label rules: a change that changes labels counts it up
_FOLDER = 'jax_prompt_labels'
LEAST = 20_000  # labels; fewer are read in a second or two


def cached_labels(
    folder: Path, what: str, count: int, read: Callable[[], np.ndarray]
) -> np.ndarray:
    """Returns labels, from the cache where they are there.

    Args:
      folder: of the prepared data.
      what: which labels these are.
      count: how many, n.
      read: reads them, [n] int32.

    Returns:
      [n] int32.
    """
    if count < LEAST:
        return read()
    key = hashlib.sha256(f'{_VERSION} {count} {what}'.encode()).hexdigest()[:32]
    path = folder / _FOLDER / f'{key}.npz'
    try:
        labels = read_labels(path)
        if labels.shape == (count,) and labels.dtype == np.int32:
            return labels
    except (OSError, ValueError):
        pass  # not there, or damaged: written anew
    labels = read()
    try:
        _write(path, labels)
    except OSError as error:
        _LOG.info('labels are not kept in %s: %s', path.parent, error.strerror)
    return labels


def read_labels(path: Path) -> np.ndarray:
    """Returns the labels of a file that `cached_labels` wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged; names the file.
    """
    try:
        arrays = list_arrays(path)
        if arrays.keys() != {'labels'}:
            raise ValueError(f"it holds {sorted(arrays)[:5]}, not 'labels' alone")
        return read_array(path, arrays['labels']).copy()  # it is mapped; labels are small
    except ValueError as error:
        raise ValueError(f'{path} is not read: {error}') from error


def _write(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    with whole_file(path, durable=True) as file:
        np.savez(file, labels=labels)
