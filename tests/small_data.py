"""Small images, packs and splits for tests of data and of training."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from jax_prompt.data.source import Split
from jax_prompt.train.job import Data


def picture(i: int, height: int = 12, width: int = 16) -> np.ndarray:
    """Returns a smooth picture of its own, [H, W, 3] uint8."""
    down, across = np.mgrid[:height, :width]
    planes = [(down * 9 + i * 31) % 256, (across * 7 + i * 17) % 256, (down + across + i) % 256]
    return np.stack(planes, axis=-1).astype(np.uint8)


def encode(image: np.ndarray | Image.Image, kind: str = 'PNG', **options) -> bytes:
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, kind, **options)
    return file.getvalue()


def write_class(folder: Path, count: int, first: int = 0, kind: str = 'PNG') -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        (folder / f'{i:03d}.{kind.lower()}').write_bytes(encode(picture(i), kind))


def write_pack(path: Path, files: list[bytes], save=np.savez, **changes) -> Path:
    """Writes a pack of files of two classes in turn, 60 % train, 20 % val, the rest test."""
    count = len(files)
    arrays = {
        'bytes': np.frombuffer(b''.join(files), np.uint8),
        'offset': np.cumsum([0, *map(len, files)]).astype(np.int64),
        'label': (np.arange(count) % 2).astype(np.int32),
        'split': np.repeat([0, 1, 2], [count * 3 // 5, count // 5, count - count * 4 // 5]),
        'classes': np.array(['cat', 'dog']),
    }
    arrays['split'] = arrays['split'].astype(np.uint8)
    save(path, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return path


def split_of(images: list[np.ndarray], name: str = 'train') -> Split:
    """Returns a split of images in memory, labels in turn 0 and 1."""
    labels = (np.arange(len(images)) % 2).astype(np.int32)
    return Split(name, labels, lambda i: images[i], lambda i: f'{name}[{i}]')


def dark_and_bright(count, seed=0):
    """Dark and bright images: classes that a few steps tell apart."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 2).astype(np.int32)
    images = rng.integers(0, 90, (count, 8, 8, 3)) + 150 * labels[:, None, None, None]
    return Data(images.astype(np.uint8), labels)
