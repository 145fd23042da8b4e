"""The folder of fetched weights, and what lies beside each file: where it came from, what it was.

    CACHE/weights/ARCH.TAG/FILE                 the file, as it was published
    CACHE/weights/ARCH.TAG/FILE.fetched.json    its record

CACHE is the variable JAX_PROMPT_CACHE, or the platform's folder for caches. A file that somebody
put there by hand is taken, too: its checksum is recorded when it is first used.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from jax_prompt.backbones.table import Entry
from jax_prompt.core.checksum import hash_file
from jax_prompt.core.files import whole_file
from jax_prompt.core.json_file import load_object

STATED, FIRST_USE = 'publisher', 'first use'


@dataclass(frozen=True)
class FileRecord:
    """What is known of a file in the cache.

    Attributes:
      url: where it came from; '' of one that was put there by hand.
      sha256: its checksum.
      size: its bytes.
      pinned: who says that this is its checksum: 'publisher' (all of it, or its first digits), or
        'first use', where nobody does and it is that of what came.
    """

    url: str
    sha256: str
    size: int
    pinned: str


def cache_folder() -> Path:
    """Returns the folder of all that is fetched; it need not be there."""
    if given := os.environ.get('JAX_PROMPT_CACHE'):
        return Path(given).expanduser()
    home = Path.home()
    if sys.platform == 'darwin':
        return home / 'Library' / 'Caches' / 'jax_prompt'
    if os.name == 'nt':
        return Path(os.environ.get('LOCALAPPDATA') or home / 'AppData' / 'Local') / 'jax_prompt'
    return Path(os.environ.get('XDG_CACHE_HOME') or home / '.cache') / 'jax_prompt'


def cached_file(entry: Entry) -> Path:
    """Returns where the file of published weights lies once it is fetched."""
    return cache_folder() / 'weights' / entry.name / entry.filename


def write_record(path: Path, record: FileRecord) -> None:
    """Writes the record of a file beside it."""
    with whole_file(_beside(path)) as file:
        file.write(json.dumps(asdict(record), indent=2, sort_keys=True).encode() + b'\n')


def read_record(path: Path) -> FileRecord | None:
    """Reads the record of a file; None where it has none.

    Raises:
      ValueError: the record is damaged; says what to remove.
    """
    beside, way_out = _beside(path), f'remove it and {path}: the file is fetched anew'
    if not beside.exists():
        return None
    values = load_object(beside, way_out, [field.name for field in fields(FileRecord)])
    if any(type(values[field.name]) is not field.type for field in fields(FileRecord)):
        raise ValueError(f'{beside} is damaged: {way_out}')
    return FileRecord(**{field.name: values[field.name] for field in fields(FileRecord)})


def checked_record(path: Path, stated: str = '') -> FileRecord:
    """Compares a file in the cache with its record; one without a record gets it.

    Args:
      path: the file.
      stated: the checksum that its publisher states, or its first digits; '': none.

    Returns:
      The record.

    Raises:
      ValueError: the file is another one, or the record is damaged; says what to remove.
    """
    record, digest, size = read_record(path), hash_file(path), path.stat().st_size
    if record is not None and (record.size, record.sha256) != (size, digest):
        raise ValueError(
            f'{path} is not what was fetched: it has {size} bytes and sha256 {digest}, recorded '
            f'are {record.size} and {record.sha256}. Remove it and {_beside(path).name}: it is '
            'fetched anew'
        )
    if not digest.startswith(stated):
        raise ValueError(
            f'{path} has sha256 {digest}; its publisher states {stated}. Remove it, or pass your '
            'own file by its path'
        )
    if record is None:
        record = FileRecord('', digest, size, STATED if stated else FIRST_USE)
        write_record(path, record)
    return record


def _beside(path: Path) -> Path:
    return path.with_name(f'{path.name}.fetched.json')
