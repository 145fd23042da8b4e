"""Files that appear whole: a reader sees the old content or the new, never a part of it.

What a killed process leaves unfinished carries the name of that process, so that the next one to
write the same file, or to use the same folder, can remove it.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from jax_prompt.core.owner import is_gone, new_owner

_STALE = 24 * 3600.0  # seconds after which another machine's unfinished file is taken for left


@contextmanager
def whole_file(path: str | Path, *, durable: bool = False) -> Iterator[IO[bytes]]:
    """Opens a file for writing that takes its name when the block ends well.

    Until then it lies beside `path` as `NAME.OWNER.part`, so that any number of processes may write
    the same file at once: the last to finish wins. An error in the block removes it; what a killed
    process left is removed by the next that writes the file.

    Args:
      path: the file; an older one is replaced.
      durable: whether the content is on the disk before the name is, and the name at the end.

    Yields:
      The file, open for bytes.
    """
    path = Path(path)
    remove_left(path.parent, f'{path.name}.', '.part')
    part = path.with_name(f'{path.name}.{new_owner()}.part')
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


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Makes a folder of this process in `parent` and removes it at the end.

    What killed processes left under the same prefix is removed first.

    Args:
      parent: where it lies; it must be there.
      prefix: how its name begins, '.prepare_'.

    Yields:
      The folder, empty.
    """
    remove_left(parent, prefix, '')
    made = parent / f'{prefix}{new_owner()}'
    made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def own_temporaries(folder: Path) -> Iterator[None]:
    """Lets what other packages make in the temporary folder lie in `folder` meanwhile."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def remove_left(folder: Path, prefix: str, suffix: str) -> None:
    """Removes what killed processes left unfinished: PREFIX OWNER SUFFIX.

    It is known to be left where its process ran on this machine and is gone; another's is after a
    day without a change.

    Args:
      folder: where it lies.
      prefix: how the names begin.
      suffix: how they end.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if not (name.startswith(prefix) and name.endswith(suffix)):
            continue
        path, owner = folder / name, name.removeprefix(prefix).removesuffix(suffix)
        try:
            if not is_gone(owner) and time.time() - path.lstat().st_mtime < _STALE:
                continue
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError:  # another process was faster, or it is another user's
            continue
