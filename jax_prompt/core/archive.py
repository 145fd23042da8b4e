"""Reads zip archives of plain files, within bounds: .npz, and the zip form of torch's files.

Members are stored as they are, or deflated; these are the two that numpy and torch write. A stored
member is mapped, not read. A deflated one is unpacked to the size that the archive declares and no
further. The sizes are checked before anything is unpacked: members may not overlap, and all of them
together may not be much larger than the file, since weights and images hardly shrink.

Every error is a ValueError that does not name the file: callers do.
"""

import struct
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from jax_prompt.core.mapped import map_bytes

_PACKED_AT_MOST = 16  # times the file's size ...
_SMALL = 2**28  # ... or this many bytes, unpacked
_CHUNK = 2**20


class Entry(NamedTuple):
    """A member of an archive.

    Attributes:
      name: its name.
      start: its first byte in the file.
      packed: its bytes in the file.
      size: its bytes unpacked.
      crc: their CRC-32, as the archive says.
      stored: whether it lies there as it is.
    """

    name: str
    start: int
    packed: int
    size: int
    crc: int
    stored: bool


def list_entries(path: Path) -> list[Entry]:
    """Returns the members of an archive in the order of its directory.

    Raises:
      ValueError: it is truncated or damaged, two members have one name, one is encrypted or packed
        in another way, or they unpack to more than such a file can hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError, struct.error) as error:
        raise ValueError(f'it is truncated or damaged ({error})') from error
    counts = Counter(info.filename for info in infos)
    if len(counts) < len(infos):
        name = counts.most_common(1)[0][0]
        raise ValueError(f"the zip archive holds several files of one name: '{name[:80]}'")
    length = path.stat().st_size
    with path.open('rb') as stream:
        entries = [_place(stream, info, length) for info in infos]
    if sum(entry.packed for entry in entries) > length:
        raise ValueError('its members overlap')
    size = sum(entry.size for entry in entries)
    if size > max(_PACKED_AT_MOST * length, _SMALL):
        raise ValueError(f'it is a file of {length} bytes that unpacks to {size}')
    return entries


def _place(stream: IO[bytes], info: zipfile.ZipInfo, length: int) -> Entry:
    name = info.filename[:80]
    stored = info.compress_type == zipfile.ZIP_STORED
    if not stored and info.compress_type != zipfile.ZIP_DEFLATED:
        raise ValueError(f"its member '{name}' is packed by method {info.compress_type}")
    if info.flag_bits & 1:
        raise ValueError(f"its member '{name}' is encrypted")
    if stored and info.file_size != info.compress_size:
        raise ValueError(f"its member '{name}' has two sizes")
    if not 0 <= info.header_offset < length:
        raise ValueError(f"its member '{name}' lies outside the file")
    stream.seek(info.header_offset)
    header = stream.read(30)
    if len(header) != 30 or header[:4] != b'PK\x03\x04':
        raise ValueError(f"its member '{name}' has no header")
    start = info.header_offset + 30 + sum(struct.unpack('<HH', header[26:30]))
    if start + info.compress_size > length:
        raise ValueError(f"its member '{name}' reaches beyond the end of the file")
    return Entry(info.filename, start, info.compress_size, info.file_size, info.CRC, stored)


def unpack(path: Path, entry: Entry, most: int | None = None) -> np.ndarray:
    """Returns the bytes of a member, or the first `most` of them.

    Returns:
      [size] uint8: mapped from the file where they are stored, else in memory.

    Raises:
      ValueError: it is damaged; the checksum is compared where all bytes are asked for.
    """
    size = entry.size if most is None else min(most, entry.size)
    if entry.stored:
        data = map_bytes(path, entry.start, size)
    else:
        data = _inflate(map_bytes(path, entry.start, entry.packed), size)
    if most is None and zlib.crc32(data.data) != entry.crc:
        raise ValueError('Bad CRC-32: it does not match its checksum, so it is damaged')
    return data


def _inflate(packed: np.ndarray, size: int) -> np.ndarray:
    out, done, given = np.empty(size, np.uint8), 0, 0
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    while done < size:
        part = engine.unconsumed_tail or packed[given : given + _CHUNK].tobytes()
        if not engine.unconsumed_tail:
            given += _CHUNK
        try:
            made = engine.decompress(part, min(size - done, _CHUNK))
        except zlib.error as error:
            raise ValueError(f'its packed bytes are damaged ({error})') from error
        if not made and (engine.eof or given >= len(packed)):
            raise ValueError(f'it unpacks to {done} bytes; the archive says {size}')
        out[done : done + len(made)] = np.frombuffer(made, np.uint8)
        done += len(made)
    return out
