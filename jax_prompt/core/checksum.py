"""Checksums: what a checkpoint was when it was written, and whether it still is.

Two are kept. The hash of the tree and of what is saved beside it says whether the values that were
read are the values that were saved. The checksums of the files are compared before anything reads
them: what reads a damaged array file may complain from threads of its own.
"""

import json
import zlib
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_prompt.core.files import whole_file

SUMS = 'checksums.json'
_PARTS = ('tree', 'info')  # the folders of a checkpoint that hold what was saved


def hash_tree(tree: Any, info: Any = None) -> str:
    """Returns the SHA-256 of a tree's paths, types, shapes and values.

    Args:
      tree: arrays.
      info: a JSON-able value that is hashed too.

    >>> zeros = np.zeros(2, np.float32)
    >>> hash_tree({'a': zeros}) == hash_tree({'a': zeros.copy()})
    True
    >>> hash_tree({'a': zeros}) == hash_tree({'b': zeros})
    False
    """
    digest = sha256(json.dumps(info, sort_keys=True).encode())
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator='/'): x for path, x in leaves}
    for path in sorted(named):  # whether a node is a dict or a named tuple does not matter
        array = np.ascontiguousarray(named[path])
        digest.update(f'{path} {array.dtype.name} {np.shape(named[path])} '.encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    with path.open('rb') as file:
        return file_digest(file, 'sha256').hexdigest()


def write_sums(folder: Path) -> None:
    """Writes the checksums of a checkpoint's files beside them."""
    with whole_file(folder / SUMS) as file:
        file.write(json.dumps(_sums(folder), indent=2, sort_keys=True).encode() + b'\n')


def damage(folder: Path) -> str:
    """Says which of a checkpoint's files is not what was written.

    Returns:
      '' where all are whole, or where the checksums themselves are gone: then the hash of the tree
      has to tell.
    """
    try:
        wanted = dict(json.loads((folder / SUMS).read_text(encoding='utf-8')))
    except (OSError, ValueError, TypeError):
        return ''
    found = _sums(folder)
    gone = sorted(set(wanted) - set(found))
    if gone:
        return f'{gone[0]} is missing'
    changed = [name for name in wanted if found[name] != wanted[name]]
    return f'{changed[0]} is not what was written' if changed else ''


def _sums(folder: Path) -> dict[str, int]:
    paths = sorted(path for part in _PARTS for path in (folder / part).rglob('*') if path.is_file())
    return {path.relative_to(folder).as_posix(): _crc32(path) for path in paths}


def _crc32(path: Path) -> int:
    found = 0
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            found = zlib.crc32(block, found)
    return found
