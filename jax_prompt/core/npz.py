"""Reads .npz files: plain arrays only, within bounds, and never by evaluating a header.

Numpy reads an array's header as Python text, which may raise almost anything and fill the memory;
here a header is matched. Objects, structures and other types than numbers and texts are refused.
Stored members are mapped, deflated ones unpacked (`archive`).
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_prompt.core.archive import Entry, list_entries, unpack

_MAX_HEADER = 10_000  # bytes, as numpy
_MAX_SIZE = 2**48  # bytes of an array
_ITEMS = {
    'descr': r"'(?P<descr>[^'\\\n]{1,16})'",
    'fortran_order': r'(?P<fortran_order>True|False)',
    'shape': r'\((?P<shape>[\dL, ]*)\)',
}
_ITEM = re.compile(
    '|'.join(rf"\s*'{name}'\s*:\s*{text}\s*(?:,|$)" for name, text in _ITEMS.items())
)
_TYPE = re.compile(r'[<>|=]?(?:[biufc]\d{1,2}|[SUV]\d{1,6})')


class Member(NamedTuple):
    """An array of an archive, as its header describes it.

    Attributes:
      entry: where it lies.
      dtype: its type; bfloat16 is written by numpy as two nameless bytes, 'V2'.
      shape: its shape.
      fortran: whether its first axis varies fastest.
      head: bytes of the member before the values.
    """

    entry: Entry
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    head: int

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def list_arrays(path: Path) -> dict[str, Member]:
    """Returns the arrays of an .npz by name, as their headers describe them; reads no values.

    Raises:
      ValueError: the archive is damaged or beyond its bounds (`archive.list_entries`), a name
        occurs twice, or a header is none of a plain array. The file is not named.
    """
    members: dict[str, Member] = {}
    for entry in list_entries(path):
        name = entry.name.removesuffix('.npy')
        if name in members:
            raise ValueError(f"several arrays of one name: '{name[:80]}'")
        try:
            start = unpack(path, entry, _MAX_HEADER + 12).tobytes()
            members[name] = Member(entry, *_parse(start, entry.size))
        except ValueError as error:
            raise ValueError(f"array '{name[:80]}' is not read: {error}") from error
    return members


def read_array(path: Path, member: Member) -> np.ndarray:
    """Returns an array: read-only and mapped where it is stored, else in memory.

    Raises:
      ValueError: its bytes are damaged. The file is not named.
    """
    try:
        data = unpack(path, member.entry)
    except ValueError as error:
        name = member.entry.name.removesuffix('.npy')[:80]
        raise ValueError(f"array '{name}' is not read: {error}") from error
    return _shaped(data[member.head :], member.dtype, member.shape, member.fortran)


def _shaped(data: np.ndarray, dtype: np.dtype, shape: tuple[int, ...], fortran: bool) -> np.ndarray:
    if not data.size:
        return np.zeros(shape, dtype)
    return data.view(dtype).reshape(shape, order='F' if fortran else 'C')


def _parse(start: bytes, size: int) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    """Returns what the head of an .npy says: dtype, shape, order, bytes of the head."""
    version = start[6:8]
    if start[:6] != b'\x93NUMPY' or version not in (b'\x01\x00', b'\x02\x00', b'\x03\x00'):
        raise ValueError('it is no array of numpy (.npy 1.0 to 3.0)')
    width = 2 if version == b'\x01\x00' else 4
    length, head = int.from_bytes(start[8 : 8 + width], 'little'), 8 + width
    if length > _MAX_HEADER or head + length > len(start):
        raise ValueError(f'its header has {length} bytes; at most {_MAX_HEADER} are read')
    dtype, shape, fortran = _parse_header(start[head : head + length].decode('latin1'))
    head += length
    described = head + math.prod(shape) * dtype.itemsize
    if described != size:
        raise ValueError(f'its header describes {described} bytes, the archive has {size}')
    return dtype, shape, fortran, head


def _parse_header(text: str) -> tuple[np.dtype, tuple[int, ...], bool]:
    body, found, place = text.strip(), dict[str, str](), 1
    if not (body.startswith('{') and body.endswith('}')):
        raise ValueError('its header is damaged')
    body = body[:-1].rstrip()
    while place < len(body):
        match = _ITEM.match(body, place)
        if match is None:
            break
        found |= {name: value for name, value in match.groupdict().items() if value is not None}
        place = match.end()
    descr = found.get('descr', '')
    if descr in ('O', '|O'):
        raise ValueError('it holds Python objects, which are never unpickled (no allow_pickle)')
    if place < len(body) or found.keys() != _ITEMS.keys() or not _TYPE.fullmatch(descr):
        raise ValueError(f'its header is damaged or of no plain array: {text[:80]!r}')
    try:
        dtype = np.dtype(descr)
        numbers = [text.strip().removesuffix('L') for text in found['shape'].split(',')]
        shape = tuple(int(number) for number in numbers if number)
    except (TypeError, ValueError) as error:
        raise ValueError(f'its header is of no plain array: {text[:80]!r}') from error
    if len(shape) > 32 or math.prod(n for n in shape if n) * dtype.itemsize > _MAX_SIZE:
        raise ValueError(f'its header describes an array of shape {found["shape"][:80]}')
    return dtype, shape, found['fortran_order'] == 'True'
