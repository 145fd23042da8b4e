"""Stretches of a file as arrays that take memory only while they are used."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np


class _Pages(mmap.mmap):
    """Pages of a file, read-only: what is dropped of them is still in the file."""


def map_bytes(path: Path, start: int, size: int) -> np.ndarray:
    """Returns bytes of a file as a read-only array.

    Each array has a mapping of its own, which goes with the array; so a file that is read array by
    array is never in memory as a whole beside what is made of it.

    Args:
      path: the file; it must hold `start + size` bytes and must not shrink while the array lives.
      start: the first byte.
      size: how many.

    Returns:
      [size] uint8.
    """
    if size == 0:
        return np.zeros(0, np.uint8)
    lead = start % mmap.ALLOCATIONGRANULARITY  # mappings begin at whole pages
    with path.open('rb') as stream:
        pages = _Pages(stream.fileno(), lead + size, access=mmap.ACCESS_READ, offset=start - lead)
    return np.frombuffer(pages, np.uint8, size, lead)


def release(array: np.ndarray) -> None:
    """Gives back the memory into which an array of `map_bytes`, or a view of one, was read.

    The array stays what it is, and what is asked of it later is read from the file again. Nothing
    happens to an array that is no part of a file.
    """
    owner: Any = array
    while owner is not None and not isinstance(owner, _Pages):
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, 'base', None)
    if owner is not None and hasattr(mmap, 'MADV_DONTNEED'):  # not on Windows
        owner.madvise(mmap.MADV_DONTNEED)


def dtype_of(name: str) -> np.dtype:
    """Returns numpy's dtype of a name, bfloat16 included."""
    if name == 'bfloat16':
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
