"""Decoded and resized images on disk: made once, shared by all runs that show the same images.

One split of one task at one size is a .npy of uint8 [n, S, S, 3], which is mapped, not read, and a
description that names it and its sha256:

    f3a2...json        by what the images are: data, split, size, interpolation, crop
    9c41...train.npy   by the content

Every file appears under its name in one step, whole, and never changes; so several runs may make
the same entry at once, the last to finish wins, and a killed one leaves only a file '.part_*' or
'*.part', which the next one removes (`core/files.py`). There is no lock.

A cache knows its images by the names, sizes and labels of the data. Whoever exchanges an image file
for another of the same size empties the cache by hand.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jax_prompt.core.checksum import hash_file
from jax_prompt.core.files import put_in_place, remove_left, whole_file
from jax_prompt.core.owner import new_owner
from jax_prompt.data.source import Split, visit
from jax_prompt.data.transforms import StoredView

_LOG = logging.getLogger(__name__)
_VERSION = 1  # of decoding and resizing: a change that changes pixels counts it up
_PART = '.part_'  # how unfinished files begin


def cached_images(folder: Path, split: Split, view: StoredView, *, workers: int = 2) -> np.ndarray:
    """Returns a split's images from the cache; makes them first where they are missing.

    An entry whose content does not have its sha256 is made anew.

    Args:
      folder: of the cache; made where it is missing.
      split: the split; its `identity` must say what it is.
      view: how images are stored.
      workers: decoding threads.

    Returns:
      [n, S, S, 3] uint8, mapped read-only.

    Raises:
      ValueError: the split has no identity; images that can't be decoded, by name.
    """
    if not split.identity:
        raise ValueError(f"split '{split.name}' has no identity; it can't be cached")
    size, method, crop, ratio = view
    what = [_VERSION, split.identity, len(split), size, method, crop]
    what.append(ratio if crop == 'centre' else None)
    described = folder / f'{hashlib.sha256(repr(what).encode()).hexdigest()[:32]}.json'
    shape = (len(split), size, size, 3)
    found = _find(described, shape)
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    remove_left(folder, _PART, '')
    remove_left(folder, '', '.part')  # of descriptions
    part = folder / f'{_PART}{new_owner()}'
    try:
        _make(part, split, view, workers)
        digest = hash_file(part)
        file = folder / f'{digest[:32]}.{split.name}.npy'
        put_in_place(part, file, durable=True)
    finally:
        part.unlink(missing_ok=True)
    entry = {'file': file.name, 'sha256': digest, 'images': what}
    with whole_file(described, durable=True) as opened:
        opened.write(json.dumps(entry, indent=1).encode())
    return np.load(file, mmap_mode='r')


def _make(part: Path, split: Split, view: StoredView, workers: int) -> None:
    """Decodes a split into a file."""
    shape = (len(split), view.size, view.size, 3)
    images = np.lib.format.open_memmap(part, 'w+', np.uint8, shape)

    def store(i: int, image: np.ndarray) -> None:
        images[i] = view.resize(image)

    visit(split, store, workers)
    images.flush()


class StoredImages:
    """A split's images on disk as a stream of batches, for what does not fit in memory.

    Args:
      split: what is shown.
      parts: its images, [n, S, S, 3] uint8, one part after the other.
    """

    def __init__(self, split: Split, parts: Sequence[np.ndarray]):
        self.split, self.parts = split, tuple(parts)
        self._ends = np.cumsum([len(part) for part in self.parts])
        if self._ends[-1] != len(split):
            raise ValueError(f'{self._ends[-1]} images, {len(split)} labels')

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields images [B, S, S, 3] uint8 and labels [B] int32 for each row of an order.

        Raises:
          ValueError: indices outside the split.
        """
        order = np.asarray(order)
        if order.size and not (order.min() >= 0 and order.max() < len(self)):
            raise ValueError(f'indices {order.min()}..{order.max()} leave {len(self)} examples')
        return self._batches(order)

    def _batches(self, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        labels = np.asarray(self.split.labels, np.int32)
        for row in order:
            images = np.empty((len(row), *self.parts[0].shape[1:]), np.uint8)
            which = np.searchsorted(self._ends, row, side='right')
            for i, part in enumerate(self.parts):
                mine = which == i
                images[mine] = part[row[mine] - (self._ends[i] - len(part))]
            yield images, labels[row]


def _find(described: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns the images of an entry; None where there is none or it is damaged."""
    if not described.is_file():  # or what would never end: a pipe, a device
        return None
    try:
        entry = json.loads(described.read_text(encoding='utf-8'))
        file = described.parent / Path(entry['file']).name
        if file.exists() and not file.is_file():
            raise ValueError(f'{file.name} is no file')
        digest = hash_file(file)
        if digest == entry['sha256']:
            images = np.load(file, mmap_mode='r')
            if images.shape == shape and images.dtype == np.uint8:
                return images
        why = f'{file.name} is not what it was'
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = str(error) or type(error).__name__
    _LOG.warning('%s: made anew, since %s', described, why)
    return None
