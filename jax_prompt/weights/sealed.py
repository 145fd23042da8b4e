"""Trees of arrays as files with a checksum: tuned packs, and the snapshots and prompts of a run.

Such a file is a safetensors file with two texts in its metadata. One says what the arrays are, as
JSON; its name, `jax_prompt_KIND`, says which kind of file it is. The other is a checksum of the
arrays and of the former. The file is moved into place whole, and reading it runs no code.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_prompt.core.checksum import hash_tree
from jax_prompt.core.files import whole_file
from jax_prompt.core.json_file import parse_json
from jax_prompt.core.tree import Tree, flatten
from jax_prompt.weights.readers import read_safetensors
from jax_prompt.weights.writer import write_safetensors

_LOG = logging.getLogger(__name__)
_SUM = 'sha256'
Check = Callable[[dict[str, np.ndarray], Any], None]
_MOST_CHARACTERS = 2**22  # of the text that says what the arrays are


class Sealed(NamedTuple):
    """What a file holds.

    Attributes:
      leaves: the arrays by path, 'a/b/c'; mapped from the file, read-only.
      info: what is said of them, a value of JSON.
      sha256: the checksum of both.
    """

    leaves: dict[str, np.ndarray]
    info: Any
    sha256: str


def write_sealed(
    path: str | Path,
    kind: str,
    tree: Tree,
    info: Any = None,
    *,
    finite: bool = False,
    durable: bool = False,
) -> None:
    """Writes a tree.

    Args:
      path: the file; an older one is replaced, at once and only by a complete one.
      kind: which kind of file it is: 'pack', 'snapshot' or 'prompts'.
      tree: floating-point arrays.
      info: what is said of them, a value of JSON; one that holds NaN is not read back.
      finite: whether NaN and infinity in the arrays are refused.
      durable: whether the file is on the disk when this returns.

    Raises:
      ValueError: an array is of another type than float32, float16 and bfloat16, or not finite.
    """
    text = json.dumps(info, sort_keys=True)
    metadata = {_key(kind): text, _SUM: hash_tree(tree, json.loads(text))}
    with whole_file(path, durable=durable) as file:
        write_safetensors(file, flatten(tree), '', metadata, finite=finite)


def read_sealed(path: str | Path, kind: str, way_out: str, check: Check | None = None) -> Sealed:
    """Reads a file that `write_sealed` wrote.

    Args:
      path: the file.
      kind: as in `write_sealed`.
      way_out: what the reader of an error can do, 'copy it again'.
      check: takes arrays and info, before the checksum is compared, and raises a ValueError where
        no such file holds them.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is of another kind, damaged, or refused by `check`; names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing: {way_out}')
    key = _key(kind)
    try:
        leaves, metadata = read_safetensors(path)
        if key not in metadata or _SUM not in metadata:
            raise ValueError(f'it is no {kind}: its header lacks {key!r} or {_SUM!r}')
        info = parse_json(metadata[key], _MOST_CHARACTERS)
    except ValueError as error:
        raise ValueError(f'{path} is not read: {error}; {way_out}') from error
    try:
        if check is not None:
            check(leaves, info)
    except ValueError as error:
        raise ValueError(f'{path} is not read: {error}') from error
    if hash_tree(leaves, info) != metadata[_SUM]:
        raise ValueError(f'{path} is damaged: its checksum is another; {way_out}')
    return Sealed(leaves, info, metadata[_SUM])


def is_whole(path: str | Path, kind: str, way_out: str, check: Check | None = None) -> bool:
    """Whether a file is there and whole; a damaged one is named in a warning.

    Args:
      path: the file.
      kind: as in `write_sealed`.
      way_out: what is done about a damaged one, 'it is written again'.
      check: as in `read_sealed`.
    """
    try:
        read_sealed(path, kind, way_out, check)
    except FileNotFoundError:
        return False
    except ValueError as error:
        _LOG.warning('%s', error)
        return False
    return True


def is_of_kind(path: Path, kind: str) -> bool:
    """Whether a file is of a kind, by its header; whether it is whole, `read_sealed` tells."""
    try:
        return path.is_file() and _key(kind) in read_safetensors(path)[1]
    except (ValueError, OSError):
        return False


def _key(kind: str) -> str:
    return f'jax_prompt_{kind}'
