"""Which files are images and how a file is read: one rule for training and for prediction."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from jax_prompt.core.printable import printable

SUFFIXES = frozenset(
    {
        *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.gif', '.bmp', '.webp', '.avif'),
        *('.tif', '.tiff', '.ppm', '.pgm', '.pbm', '.pnm'),
    }
)
_MOST_BYTES = 1 << 30


def is_hidden(name: str) -> bool:
    """Whether a file or folder is passed over: '.name' or what macOS adds to archives."""
    return name.startswith('.') or name == '__MACOSX'


def is_image(name: str) -> bool:
    """Whether a file of this name is read as an image: it has the suffix of one, not hidden."""
    return not is_hidden(name) and os.path.splitext(name)[1].lower() in SUFFIXES


def entries(folder: Path) -> list[Path]:
    """Returns what lies in a folder, sorted.

    Raises:
      ValueError: it can't be listed.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise ValueError(f'{printable(str(folder))}: not readable: {error.strerror}') from error


def walk_images(folder: Path, passed: list[Path]) -> Iterator[Path]:
    """Yields the images below a folder, in no fixed order.

    Links are followed, but into no folder twice and not to a folder that holds this one.

    Args:
      folder: the folder.
      passed: hidden folders and files, and files that are no images, are added to it.

    Raises:
      ValueError: a folder that can't be listed.
    """

    def fail(error: OSError) -> None:
        raise ValueError(f'{printable(str(error.filename))}: not readable: {error.strerror}')

    start = Path(os.path.realpath(folder))
    seen = {str(above) for above in start.parents}
    for at, names, files in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(at)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        passed += [Path(at, name) for name in names if is_hidden(name)]
        names[:] = sorted(name for name in names if not is_hidden(name))
        for name in files:
            if is_image(name):
                yield Path(at, name)
            else:
                passed.append(Path(at, name))


def find_images(paths: Sequence[str | Path], passed: list[Path]) -> list[Path]:
    """Returns the image files among the paths and in the folders among them, in a fixed order.

    In folders the rule of training holds (`walk_images`); a file that is named is always tried.

    Args:
      paths: files and folders.
      passed: what is passed over in folders is added to it.

    Raises:
      FileNotFoundError: a path that isn't there, or a folder without images.
    """
    found: list[Path] = []
    for path in (Path(one).expanduser() for one in paths):
        if path.is_dir():
            inside = sorted(walk_images(path, passed))
            if not inside:
                raise FileNotFoundError(f'no images in {path}; suffixes: {sorted(SUFFIXES)}')
            found.extend(inside)
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f'no such file or folder: {path}')
    return found


def holds_images(folder: Path) -> bool:
    """Whether there is an image anywhere below a folder."""
    return any(True for _ in walk_images(folder, []))


def file_size(path: Path) -> int:
    """Returns a file's size in bytes.

    Raises:
      ValueError: it is not there, or it is a pipe, a device or a folder.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise ValueError(f'{printable(str(path))}: not readable: {error.strerror}') from error
    _check_regular(path, found)
    return found.st_size


def read_file(path: Path) -> bytes:
    """Returns a file's content; never waits for a pipe or reads a device.

    Raises:
      ValueError: it can't be read, it is not a regular file, or it has more than 1 GiB.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
        handle = os.open(path, os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0))
        with open(handle, 'rb') as file:
            _check_regular(path, os.fstat(handle))
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f'{printable(str(path))}: not readable: {error.strerror}') from error
    if len(data) > _MOST_BYTES:
        raise ValueError(f'{printable(str(path))}: over 1 GiB; an image file may have at most that')
    return data


def _check_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = 'a folder' if stat.S_ISDIR(found.st_mode) else 'a pipe, a socket or a device'
        raise ValueError(f'{printable(str(path))}: {kind}, not a file; remove it')
