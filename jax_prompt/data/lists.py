"""Splits that list files name: `train.json` of FGVC as published, `train800.txt` of VTAB-1k.

A list lies at the top of the folder and is named as a split. It is JSON, {image: class}, or text,
a line 'image class' for each image. Images are named relative to the folder, or to `images` in it.

The FGVC splits of Visual Prompt Tuning (Jia et al. 2022, arXiv:2203.12119) are handed out in the
first form; VTAB-1k's 1,000 training images are handed on in the second.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jax_prompt.core.printable import printable
from jax_prompt.data.draws import Draw
from jax_prompt.data.files import entries, file_size, is_image, read_file
from jax_prompt.data.folder import ImageFile, source_of_files
from jax_prompt.data.layout import SPLITS, split_of
from jax_prompt.data.source import Source

_LOG = logging.getLogger(__name__)
_FOLDERS = ('', 'images', 'Images')


@dataclass(frozen=True)
class ImageList:
    """A list file and what it says.

    Attributes:
      path: of the file.
      rows: (image, class) as they stand in it.
    """

    path: Path
    rows: tuple[tuple[str, str], ...]


def find_lists(root: Path) -> dict[str, ImageList]:
    """Returns the lists of a folder by split; {} where none lists training images.

    Raises:
      ValueError: several lists of one split, or one that begins as a list and goes on otherwise.
    """
    found: dict[str, list[ImageList]] = {}
    for path in _named_as_splits(root):
        if rows := _read(path):
            found.setdefault(split_of(path.stem) or '', []).append(ImageList(path, rows))
    lists = {split: _only(root, split, several) for split, several in found.items()}
    both = lists.pop('train+val', None)
    if both is not None and not {'train', 'val'} & lists.keys():
        lists['train'] = both
    return lists if 'train' in lists else {}


def open_lists(
    root: Path, lists: Mapping[str, ImageList], draw: Draw, *, exif: bool = True
) -> Source:
    """Opens a folder whose lists say which images are train, val and test.

    Args:
      root: the folder.
      lists: its lists, as `find_lists` gives them.
      draw: what is taken from train where there is no list of val or of test.
      exif: turn images as their EXIF orientation says.

    Returns:
      The source; classes are called as the lists call them, in the order of their numbers.

    Raises:
      ValueError: no list of train, or an image that a list names is not there.
    """
    if 'train' not in lists:
        raise ValueError(f'{root}: no list of training images, as train.json or train.txt')
    used = ', '.join(f'{split} by {lists[split].path.name}' for split in SPLITS if split in lists)
    rest = {one.name for one in _named_as_splits(root)} - {one.path.name for one in lists.values()}
    unused = f'; not used: {printable(", ".join(sorted(rest)))}' if rest else ''
    _LOG.warning('%s: %s%s', printable(str(root)), used, unused)
    files = {split: _files(root, one) for split, one in lists.items()}
    names = {file.label for own in files.values() for file in own}
    numbers = all(name.isdecimal() for name in names)
    classes = sorted(names, key=int) if numbers else sorted(names)
    # A named task's images are fixed: where they changed, there is no folder to take others from.
    folder = root if exif else None
    return source_of_files(root, files, classes, draw, exif=exif, all_classes=False, folder=folder)


def _named_as_splits(root: Path) -> list[Path]:
    """Returns the files of a folder that are named as lists of a split, sorted."""
    files = [one for one in entries(root) if one.suffix in ('.json', '.txt') and one.is_file()]
    return [one for one in files if split_of(one.stem)]


def _read(path: Path) -> tuple[tuple[str, str], ...]:
    """Reads a list; () where the file is something else."""
    try:
        text = read_file(path).decode('utf-8')
    except UnicodeDecodeError:
        return ()
    return _from_json(text) if path.suffix == '.json' else _from_lines(path, text)


def _from_json(text: str) -> tuple[tuple[str, str], ...]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(values, Mapping) or not values:
        return ()
    fits = all(
        is_image(Path(name).name) and type(one) in (int, str) for name, one in values.items()
    )
    return tuple((name, str(one)) for name, one in values.items()) if fits else ()


def _from_lines(path: Path, text: str) -> tuple[tuple[str, str], ...]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        name, _, label = line.strip().rpartition(' ')
        if is_image(Path(name.strip()).name) and label.isdecimal():
            rows.append((name.strip(), str(int(label))))
        elif line.strip():
            if not rows:
                return ()
            raise ValueError(f"{path}: line {number} is {line[:80]!r}; wanted 'image class'")
    return tuple(rows)


def _only(root: Path, split: str, lists: Sequence[ImageList]) -> ImageList:
    """Returns the list of a split: the one that is called as the split where there are several."""
    exact = [one for one in lists if one.path.stem == split]
    chosen = exact if len(lists) > 1 else lists
    if len(chosen) != 1:
        names = [one.path.name for one in lists]
        raise ValueError(f'{root}: {names} are lists of the same split ({split}); move one away')
    return chosen[0]


def _files(root: Path, one: ImageList) -> list[ImageFile]:
    """Returns the images of a list."""
    for name, _ in one.rows:
        if Path(name).is_absolute() or '..' in Path(name).parts:
            raise ValueError(
                f'{one.path}: {printable(name)} leaves the folder; allowed: names in it'
            )
    first = one.rows[0][0]
    base = next((root / name for name in _FOLDERS if (root / name / first).exists()), None)
    if base is None:
        raise ValueError(
            f'{one.path} names {printable(first)}, which is neither in {root} nor in '
            f'{root}/images; put the images there, or move the list away'
        )
    return [ImageFile(base / name, label, file_size(base / name)) for name, label in one.rows]
