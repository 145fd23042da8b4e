"""The split of a run, kept as a list: which images were its train, val and test.

A folder can change after a run was trained, and a split that is drawn from it would be another.
What is kept tells what changed, and gives a run the images that it had.
"""

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jax_prompt.core.files import whole_file
from jax_prompt.core.printable import some
from jax_prompt.data.folder import ImageFile, split_of_files
from jax_prompt.data.source import Source, Split

_NAMED = 3  # files that a message names
_DAMAGE = (OSError, EOFError, KeyError, TypeError, AttributeError, zlib.error)


@dataclass(frozen=True)
class Kept:
    """The data of a run as it was.

    Attributes:
      fingerprint: as `Source.fingerprint`.
      classes: names of the classes.
      sizes: examples of each split.
      files: of image files, (path, bytes, label) of each example of each split; {}: of other data.
    """

    fingerprint: str
    classes: tuple[str, ...]
    sizes: dict[str, int]
    files: dict[str, list[tuple[str, int, int]]]


def describe(source: Source) -> Kept:
    """Returns what is kept of a source."""
    files = {
        name: [(path, size, int(k)) for (path, size), k in zip(one.files, one.labels, strict=True)]
        for name, one in source.splits.items()
        if one.files
    }
    sizes = {name: len(one) for name, one in source.splits.items()}
    return Kept(source.fingerprint, source.classes, sizes, files)


def write_kept(path: Path, kept: Kept) -> None:
    """Writes what is kept, as gzipped JSON; the same content gives the same bytes."""
    values = {
        'fingerprint': kept.fingerprint,
        'classes': kept.classes,
        'sizes': kept.sizes,
        'files': kept.files,
    }
    with whole_file(path) as file:
        file.write(gzip.compress(json.dumps(values).encode(), mtime=0))


def read_kept(path: Path) -> Kept | None:
    """Reads what is kept; None where there is no such file.

    Raises:
      ValueError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        values = json.loads(gzip.decompress(path.read_bytes()))
        files = {
            name: [(str(one), int(size), int(label)) for one, size, label in rows]
            for name, rows in values['files'].items()
        }
        sizes = {name: int(size) for name, size in values['sizes'].items()}
        classes = tuple(map(str, values['classes']))
        if any(not 0 <= k < len(classes) for rows in files.values() for _, _, k in rows):
            raise ValueError('a label outside its classes')
        return Kept(str(values['fingerprint']), classes, sizes, files)
    except (*_DAMAGE, ValueError) as error:
        raise ValueError(
            f'{path}: damaged ({error}); it lists the images of the run. Remove it: the data is '
            'then compared by its fingerprint alone'
        ) from error


def changes(kept: Kept, source: Source) -> str:
    """Says how data differs from what it was; '' where it is the same."""
    if kept.fingerprint == source.fingerprint:
        return ''
    out = []
    for what, there, here in (
        ('classes that are new', source.classes, kept.classes),
        ('classes that are gone', kept.classes, source.classes),
    ):
        names = [name for name in there if name not in set(here)]
        out += [f'{what}: {some(names, _NAMED)}'] if names else []
    if kept.files and source.folder is not None:
        was = {path: size for rows in kept.files.values() for path, size, _ in rows}
        now = {path: _size(source.folder / path) for path in was}
        new = {path for one in source.splits.values() for path, _ in one.files} - was.keys()
        for what, paths in (
            ('new', new),
            ('gone', {path for path in was if now[path] is None}),
            ('of another size', {path for path in was if now[path] not in (None, was[path])}),
        ):
            noun = 'image is' if len(paths) == 1 else 'images are'
            out += [f'{len(paths)} {noun} {what}: {some(sorted(paths), _NAMED)}'] if paths else []
    sizes = {name: len(one) for name, one in source.splits.items()}
    if not out and sizes != kept.sizes:
        out.append(f'images of each split: {kept.sizes} then, {sizes} now')
    return '; '.join(out) or 'its images, labels or splits are others, in the same numbers'


def open_kept(kept: Kept, folder: Path, split: str) -> Split:
    """Opens a split of a folder as it was.

    Raises:
      ValueError: no such split; images of it that are gone or changed, the first named.
    """
    if split not in kept.files:
        raise ValueError(f'{folder} has no split {split!r}; the run has {sorted(kept.files)}')
    rows = kept.files[split]
    outside = [path for path, _, _ in rows if Path(path).is_absolute() or '..' in Path(path).parts]
    changed = outside or [path for path, size, _ in rows if _size(folder / path) != size]
    if changed:
        raise ValueError(
            f'{folder}: {len(changed)} of the {len(rows)} images of {split} that the run had are '
            f'gone or changed: {some(changed, _NAMED)}; put them back'
        )
    files = [ImageFile(folder / path, kept.classes[label], size) for path, size, label in rows]
    labels = np.array([label for _, _, label in rows], np.int32)
    return split_of_files(split, folder, files, labels)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
