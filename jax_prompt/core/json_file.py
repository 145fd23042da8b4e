"""Reads JSON: files of a run, a benchmark or a user, and texts in the headers of other files."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

_MOST = 2**30  # bytes


def load_json(path: str | Path, way_out: str) -> Any:
    """Returns the value of a JSON file.

    Args:
      path: the file.
      way_out: what the reader of an error can do, 'remove it and ...'.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged or can't be read.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST:
            raise ValueError(f'it has more than {_MOST} bytes')
        return json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} is missing: {way_out}') from None
    except OSError as error:
        raise ValueError(f'{path} is not readable: {error.strerror or error}') from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is damaged ({str(error)[:120]}): {way_out}') from error


def load_object(path: str | Path, way_out: str, needs: Collection[str] = ()) -> dict[str, Any]:
    """Returns the object of a JSON file.

    Args:
      path: the file.
      way_out: as in `load_json`.
      needs: names that the object must have.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, holds something else, or lacks a name.
    """
    value = load_json(path, way_out)
    if not isinstance(value, dict):
        raise ValueError(f'{path} holds no object but {str(value)[:40]!r}: {way_out}')
    missing = sorted(set(needs) - value.keys())
    if missing:
        raise ValueError(f'{path} lacks {missing[:5]}: {way_out}')
    return value


def parse_json(text: str, most: int) -> Any:
    """Returns the value of a JSON text that comes from elsewhere.

    Args:
      text: the text.
      most: characters that are read.

    Raises:
      ValueError: it is too long, no JSON, holds one name twice, or NaN or infinity.
    """
    if len(text) > most:
        raise ValueError(f'its header has {len(text)} characters; at most {most} are read')

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError('it holds several entries of one name')
        return dict(pairs)

    def refuse(constant: str) -> Any:
        raise ValueError(f'it holds {constant}')

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'its header is damaged ({str(error)[:120]})') from error
