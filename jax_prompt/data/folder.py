"""Image folder: a subfolder per class, at the top or inside train, val and test folders.

The class is the first folder's name; images may lie deeper. Which folders are splits is told in
`layout.py`, which files are images in `files.py`. What is passed over is counted and named in a
warning.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jax_prompt.core.printable import printable
from jax_prompt.data.decode import decode_image
from jax_prompt.data.draws import Draw, complete
from jax_prompt.data.files import (
    SUFFIXES,
    entries,
    file_size,
    holds_images,
    is_hidden,
    is_image,
    read_file,
    walk_images,
)
from jax_prompt.data.layout import SPLITS, Layout, find_layout, subfolders
from jax_prompt.data.source import Source, Split, make_source

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFile:
    """A labelled image file.

    Attributes:
      path: of the file.
      label: name of its class.
      size: bytes.
    """

    path: Path
    label: str
    size: int


def open_folder(root: Path, draw: Draw, *, split_folders: bool = True) -> Source:
    """Opens an image folder.

    Args:
      root: the folder.
      draw: what is taken from train where there is no val or no test folder.
      split_folders: whether folders named as splits are splits; False: all are classes.

    Returns:
      The source; classes are the sorted folder names, examples are named by their paths.

    Raises:
      ValueError: no classes, an empty one, one in val or test that train lacks.
    """
    files = find_files(root, find_layout(root) if split_folders else Layout({}))
    if 'train' not in files:
        raise ValueError(f'{root}: {sorted(files)} without class folders in a train folder')
    classes = sorted({file.label for file in files['train']})
    if len(classes) < 2:
        raise ValueError(_one_class(root, classes))
    everything = [file for own in files.values() for file in own]
    unknown = sorted(file.path for file in everything if file.label not in set(classes))
    if unknown:
        raise ValueError(
            f'{printable(str(unknown[0]))}: its class folder has no counterpart in train, which '
            f'has {classes[:20]}'
        )
    return source_of_files(root, files, classes, draw, folder=root)


def source_of_files(
    root: Path,
    files: Mapping[str, Sequence[ImageFile]],
    classes: Sequence[str],
    draw: Draw,
    *,
    exif: bool = True,
    all_classes: bool = True,
    folder: Path | None = None,
) -> Source:
    """Makes the source of labelled image files.

    Args:
      root: the folder that their names are relative to, and the source's name.
      files: the images of each split, of train at least.
      classes: names of all their classes, in the order of the labels.
      draw: what is taken from train where there is no val or no test.
      exif: turn images as their EXIF orientation says.
      all_classes: as in `make_source`.
      folder: likewise.

    Raises:
      ValueError: as `draws.complete` and `make_source`.
    """
    everything = [file for name in SPLITS for file in files.get(name, ())]
    codes = {name: code for code, name in enumerate(classes)}
    labels = np.array([codes[file.label] for file in everything], np.int32)
    parts, start = {}, 0
    for name in SPLITS:
        parts[name] = np.arange(start, start + len(files.get(name, ())))
        start += len(parts[name])
    splits = {}
    for name, index in sorted(complete(labels, parts, draw).items()):
        own = [everything[i] for i in index]
        splits[name] = split_of_files(name, root, own, labels[index], exif=exif)
    identity = [f'{name} {path} {size}' for name in splits for path, size in splits[name].files]
    return make_source(
        printable(root.resolve().name),
        classes,
        splits,
        identity,
        all_classes=all_classes,
        folder=folder,
    )


def find_files(root: Path, layout: Layout) -> dict[str, list[ImageFile]]:
    """Lists the images of each split; of 'train' alone where there are no split folders.

    A warning counts and names what is passed over.

    Raises:
      ValueError: no class folders, or one without images.
    """
    passed: list[Path] = []
    loose: list[Path] = []
    places = layout.splits or {'train': root}
    if layout.splits:
        _sort_out(root, [*layout.splits.values()], passed, loose)
    files = {split: _of_split(folder, passed, loose) for split, folder in places.items()}
    for note in layout.notes:
        _LOG.warning('%s', printable(note))
    for what, paths in (('hidden or no images', passed), ('in no class folder', loose)):
        if paths:
            named = ', '.join(printable(str(path.relative_to(root))) for path in paths[:5])
            place = printable(str(root))
            _LOG.warning('%s: passed over %d that are %s: %s', place, len(paths), what, named)
    return files


def split_of_files(
    name: str, root: Path, files: Sequence[ImageFile], labels: np.ndarray, *, exif: bool = True
) -> Split:
    """Returns the split of some image files.

    Args:
      name: of the split.
      root: the folder that their names are relative to.
      files: the images.
      labels: [n] int32.
      exif: turn images as their EXIF orientation says.
    """
    paths = [file.path for file in files]

    def read(i: int) -> np.ndarray:
        return decode_image(read_file(paths[i]), where(i), exif=exif)

    def where(i: int) -> str:
        return printable(str(paths[i]))

    members = tuple((file.path.relative_to(root).as_posix(), file.size) for file in files)
    return Split(name, labels, read, where, files=members)


def _sort_out(root: Path, splits: list[Path], passed: list[Path], loose: list[Path]) -> None:
    """Sorts what lies beside split folders and is no folder of images."""
    above = {*splits, *(one.parent for one in splits)}
    for one in entries(root):
        if one in above:
            continue
        if not one.is_dir():
            (loose if is_image(one.name) else passed).append(one)
        elif is_hidden(one.name) or not holds_images(one):
            passed.append(one)  # other folders of images have a note of their own


def _of_split(root: Path, passed: list[Path], loose: list[Path]) -> list[ImageFile]:
    """Lists the images of a split, sorted by class and path."""
    folders = subfolders(root)
    for one in sorted({*entries(root)} - {*folders}):
        (loose if is_image(one.name) and not one.is_dir() else passed).append(one)
    if not folders:
        raise ValueError(f'{root}: no class folders; put the images of each class in a subfolder')
    files = []
    for folder in folders:
        own = list(walk_images(folder, passed))
        if not own:
            raise ValueError(
                f'{printable(str(folder))}: class folder without images; add some or remove it '
                f'(read are {", ".join(sorted(SUFFIXES))})'
            )
        label = printable(folder.name)
        for path in sorted(own, key=lambda path: path.relative_to(root).as_posix()):
            files.append(ImageFile(path, label, file_size(path)))
    return files


def _one_class(root: Path, classes: Sequence[str]) -> str:
    only = root / classes[0]
    hint = ''
    if only.is_dir() and len(subfolders(only)) > 1:
        hint = f'; does the data lie one folder deeper? data={printable(str(only))}'
    name = printable(root.resolve().name)
    return f'{name}: classes {tuple(classes)}; at least two, each named once{hint}'
