"""What a data source is: labelled splits whose images are read one by one, and their checks."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jax_prompt.core.printable import some
from jax_prompt.data.room import ROOM

_CHUNK = 16  # examples a thread takes at a time
_NAMED = 10  # corrupt examples that an error names


class Unreadable(ValueError):
    """Images of a split that can't be decoded: the first are named, all are counted.

    Attributes:
      split: the split's name.
      count: examples of the split.
      reasons: why, by index; each names its image.
    """

    def __init__(self, split: str, count: int, reasons: Mapping[int, str]):
        self.split, self.count, self.reasons = split, count, dict(sorted(reasons.items()))
        lines = [f'  {why}' for why in [*self.reasons.values()][:_NAMED]]
        if len(reasons) > _NAMED:
            lines.append(f'  and {len(reasons) - _NAMED} more')
        super().__init__(
            f"{len(reasons)} of the {count} images of split '{split}' can't be decoded; replace or "
            'remove them:\n' + '\n'.join(lines)
        )


@dataclass(frozen=True)
class Split:
    """A labelled split.

    Attributes:
      name: 'train', 'val' or 'test'.
      labels: [n] int32, indices into the source's classes.
      read: returns image i, [H, W, 3] uint8 RGB; thread-safe. Raises ValueError, naming the
        example, where it is corrupt.
      where: returns the name of example i: a file's path, 'flowers5.npz[17]'.
      identity: what tells its examples from others, the same on every machine; '': unknown.
      files: of image files, each one's path in the folder of the data, and its bytes; else ().
    """

    name: str
    labels: np.ndarray
    read: Callable[[int], np.ndarray]
    where: Callable[[int], str]
    identity: str = ''
    files: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Source:
    """A task's data.

    Attributes:
      name: what was opened, for messages and results.
      classes: names of the classes, in the order of the labels.
      splits: 'train' and 'val', and 'test' where the data has one.
      fingerprint: sha256, hex, of what identifies the data; the same on every machine.
      folder: that the paths of image files are relative to; None: the data is no folder.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    fingerprint: str
    folder: Path | None = None


def select(name: str, split: Split, index: np.ndarray) -> Split:
    """Returns chosen examples of a split, under another name."""
    return Split(
        name,
        split.labels[index],
        lambda i: split.read(int(index[i])),
        lambda i: split.where(int(index[i])),
        files=tuple(split.files[i] for i in index) if split.files else (),
    )


def concatenate(name: str, splits: Sequence[Split]) -> Split:
    """Returns the examples of several splits, one split after the other."""
    ends = np.cumsum([len(one) for one in splits])

    def place(i: int) -> tuple[Split, int]:
        which = int(np.searchsorted(ends, i, side='right'))
        return splits[which], i - int(ends[which]) + len(splits[which])

    def read(i: int) -> np.ndarray:
        one, j = place(i)
        return one.read(j)

    def where(i: int) -> str:
        one, j = place(i)
        return one.where(j)

    files = tuple(file for one in splits for file in one.files)
    labels = np.concatenate([one.labels for one in splits])
    return Split(name, labels, read, where, files=files if len(files) == len(labels) else ())


def make_source(
    name: str,
    classes: Sequence[str],
    splits: Mapping[str, Split],
    identity: Iterable[object],
    *,
    all_classes: bool = True,
    folder: Path | None = None,
) -> Source:
    """Checks the splits against the classes and returns the source.

    Args:
      name: what was opened.
      classes: names of the classes.
      splits: 'train', 'val' and maybe 'test'.
      identity: what tells this data from other data besides classes, split sizes and labels.
      all_classes: whether every class must have training examples.
      folder: of image files.

    Raises:
      ValueError: fewer than two classes, a name twice, a label outside them, an empty split, a
        class without training examples.
    """
    classes = tuple(str(one) for one in classes)
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f'{name}: classes {classes[:20]}; at least two, each named once')
    for split in splits.values():
        if not len(split):
            raise ValueError(f"{name}: split '{split.name}' is empty; give it images")
        check_labels(name, split, len(classes))
    counts = np.bincount(splits['train'].labels, minlength=len(classes))
    empty = [classes[i] for i in np.flatnonzero(counts == 0)]
    if empty and all_classes:
        raise ValueError(
            f'{name}: no training images of {some(empty, _NAMED, repr)}; add images or remove the '
            'class'
        )
    digest = hashlib.sha256(repr(classes).encode())
    for key in sorted(splits):
        labels = splits[key].labels
        digest.update(f'{key} {len(labels)} '.encode() + labels.astype('<i4').tobytes())
    for part in identity:
        raw = part if isinstance(part, bytes) else str(part).encode('utf-8', 'surrogateescape')
        digest.update(f'{len(raw)} '.encode() + raw)
    fingerprint = digest.hexdigest()
    named = {key: replace(one, identity=f'{fingerprint} {key}') for key, one in splits.items()}
    return Source(name, classes, named, fingerprint, folder)


def check_labels(name: str, split: Split, num_classes: int) -> None:
    """Raises ValueError, naming the first examples, where a label lies outside the classes."""
    wrong = np.flatnonzero((split.labels < 0) | (split.labels >= num_classes))
    if len(wrong):
        named = [f'{split.where(int(i))}: {split.labels[i]}' for i in wrong[:_NAMED]]
        raise ValueError(
            f"{name}: {len(wrong)} labels of split '{split.name}' lie outside 0..{num_classes - 1} "
            f'({num_classes} classes): {", ".join(named)}'
        )


def visit(split: Split, use: Callable[[int, np.ndarray], None], workers: int = 2) -> None:
    """Reads every example with threads and hands each image to `use`.

    Args:
      split: the split.
      use: called with (i, image [H, W, 3] uint8), from several threads.
      workers: threads.

    Raises:
      Unreadable: examples that can't be decoded: the first are named, all are counted.
    """
    errors: dict[int, str] = {}

    def work(start: int) -> None:
        for i in range(start, min(start + _CHUNK, len(split))):
            with ROOM.keep():
                try:
                    image = split.read(i)
                except ValueError as error:
                    errors[i] = str(error)
                    continue
                use(i, image)

    pool = ThreadPoolExecutor(max(workers, 1), 'decode')
    try:
        for _ in pool.map(work, range(0, len(split), _CHUNK)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    if errors:
        raise Unreadable(split.name, len(split), errors)


def check(split: Split, workers: int = 2) -> None:
    """Decodes every image; raises one ValueError that names the corrupt ones."""
    visit(split, lambda i, image: None, workers)
