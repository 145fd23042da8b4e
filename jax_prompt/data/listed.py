"""Images named by list files, as NABirds and CUB-200-2011 are handed out.

In the folder: `images/`, and `images.txt`, `image_class_labels.txt`, `train_test_split.txt`,
`classes.txt`, whose lines start with an image's or a class's identifier. The classes are those that
have images, in the order of their numbers: NABirds lists 1,011 and uses 555.
"""

from pathlib import Path

import numpy as np

from jax_prompt.core.printable import printable
from jax_prompt.data.decode import decode_image
from jax_prompt.data.draws import draw_percent
from jax_prompt.data.files import read_file
from jax_prompt.data.source import Source, Split, make_source

_FILES = ('images.txt', 'image_class_labels.txt', 'train_test_split.txt', 'classes.txt')


def open_listed(root: Path, val_percent: int, val_seed: int) -> Source:
    """Opens such a folder.

    Args:
      root: the folder.
      val_percent: share of train that is drawn, stratified, as val; train keeps the rest, rounded
        down.
      val_seed: of that draw.

    Returns:
      The source; examples are named by their paths.

    Raises:
      ValueError: a file is missing, or the files do not belong together.
    """
    missing = [name for name in (*_FILES, 'images') if not (root / name).exists()]
    if missing:
        raise ValueError(f'{root}: {missing} are missing; unpack the whole archive there')
    paths, numbers, parts, titles = (_table(root / name) for name in _FILES)
    if not paths.keys() == numbers.keys() == parts.keys():
        raise ValueError(f'{root}: {_FILES[:3]} name different images')
    names = list(paths)
    codes = {one: i for i, one in enumerate(sorted(set(numbers.values()), key=int))}
    unknown = sorted(codes.keys() - titles.keys())
    if unknown:
        raise ValueError(f'{root}/classes.txt lacks classes {unknown[:10]}')
    labels = np.array([codes[numbers[name]] for name in names], np.int32)
    official = np.array([parts[name] == '1' for name in names])
    train, test = np.flatnonzero(official), np.flatnonzero(~official)
    kept, taken = draw_percent(labels[train], val_percent, val_seed)
    index = {'train': train[kept], 'val': train[taken], 'test': test}
    files = [root / 'images' / paths[name] for name in names]
    splits = {name: _split(name, files, labels, one) for name, one in index.items()}
    classes = [f'{one} {titles[one]}' for one in codes]  # titles alone are not unique
    members = [paths[names[i]] for one in index.values() for i in one]
    return make_source(root.resolve().name, classes, splits, members)


def _table(path: Path) -> dict[str, str]:
    """Reads a list file: each line's first word and the rest."""
    lines = path.read_text(encoding='utf-8').splitlines()
    pairs = [line.strip().partition(' ') for line in lines if line.strip()]
    return {first: rest.strip() for first, _, rest in pairs}


def _split(name: str, files: list[Path], labels: np.ndarray, index: np.ndarray) -> Split:
    def read(i: int) -> np.ndarray:
        path = files[index[i]]
        # The loaders of published results do not turn images by their EXIF orientation.
        return decode_image(read_file(path), printable(str(path)), exif=False)

    return Split(name, labels[index], read, lambda i: printable(str(files[index[i]])))
