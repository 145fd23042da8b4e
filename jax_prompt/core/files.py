"""Files that appear whole: a reader sees the old content or the new, never a part of it."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: str | Path, *, durable: bool = False) -> Iterator[IO[bytes]]:
    """Opens a file for writing that takes its name when the block ends well.

    Until then it lies beside `path` as `NAME.RANDOM.part`, so that any number of processes may
    write the same file at once: the last to finish wins. An error in the block removes it; a killed
    process leaves it.

    Args:
      path: the file; an older one is replaced.
      durable: whether the content is on the disk before the name is, and the name at the end.

    Yields:
      The file, open for bytes.
    """
    path = Path(path)
    part = path.with_name(f'{path.name}.{uuid.uuid4().hex}.part')
    try:
        with part.open('wb') as file:
            yield file
        put_in_place(part, path, durable=durable)
    finally:
        part.unlink(missing_ok=True)


def put_in_place(part: Path, path: Path, *, durable: bool = False) -> None:
    """Gives a finished file its name, in one move.

    Args:
      part: the file, in the folder of `path`.
      path: its name; an older file of that name is replaced.
      durable: as in `whole_file`.
    """
    if durable:
        with part.open('rb') as file:
            os.fsync(file.fileno())
    os.replace(part, path)
    if durable and os.name == 'posix':  # the name too is on the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
