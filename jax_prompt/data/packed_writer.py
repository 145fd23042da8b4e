"""Writes a packed npz (`packed.py`): images and labels from memory as one file."""

import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jax_prompt.core.files import whole_file
from jax_prompt.data.files import read_file
from jax_prompt.data.source import Split, check


def write_packed(
    stem: Path, split: Split, classes: Sequence[str], paths: Sequence[Path] = ()
) -> Path:
    """Writes labelled images as a pack whose name says its content: STEM-HASH.npz.

    Args:
      stem: where it goes; its folder is made.
      split: the images and their labels. All examples become train; val and test are drawn from
        them when the pack is opened.
      classes: names of the classes.
      paths: the files of the images, which are packed as they are; (): images are packed as PNG,
        which loses nothing.

    Returns:
      The pack. One of the same content that is there already is left as it is.

    Raises:
      ValueError: images that can't be read, by name.
    """
    if paths:
        check(split)  # here errors name the files, later places in the pack
    stem.parent.mkdir(parents=True, exist_ok=True)
    labels, ends = np.asarray(split.labels, np.int32), [0]
    digest = hashlib.sha256(repr(tuple(classes)).encode() + labels.tobytes())
    with tempfile.TemporaryFile(dir=stem.parent) as room:  # the images may exceed the memory
        for content, data in _encoded(split, paths):
            room.write(data)
            digest.update(f'{len(content)} '.encode() + content)
            ends.append(ends[-1] + len(data))
        room.flush()
        path = stem.with_name(f'{stem.name}-{digest.hexdigest()[:12]}.npz')
        if not path.is_file():
            arrays = {
                'bytes': np.memmap(room, np.uint8, 'r'),  # type: ignore[call-overload]
                'offset': np.array(ends, np.int64),
                'label': labels,
                'split': np.zeros(len(labels), np.uint8),
                'classes': np.array(list(classes)),
            }
            with whole_file(path) as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
    return path


def _encoded(split: Split, paths: Sequence[Path]) -> Iterator[tuple[bytes, bytes]]:
    """Yields each image's content, the same with every version of Pillow, and its file."""
    from PIL import Image

    for path in paths:
        data = read_file(path)
        yield data, data
    for i in range(0 if paths else len(split)):
        image, file = split.read(i), io.BytesIO()
        Image.fromarray(image).save(file, 'PNG', compress_level=1)
        yield repr(image.shape).encode() + image.tobytes(), file.getvalue()
