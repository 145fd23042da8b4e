"""TFRecord files in pure Python: a length, its checksum, the record, its checksum, again and again.

The format of TensorFlow's `tf.data.TFRecordDataset`, uncompressed: lengths are 64-bit, checksums
masked CRC-32C, all little-endian.
"""

import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_MASK = 0xA282EAD8
_LANE = 256  # bytes
_LENGTH, _CHECKSUM = struct.Struct('<Q'), struct.Struct('<I')


def read_records(path: Path, check: bool = True) -> Iterator[bytes]:
    """Yields the records of a file.

    Args:
      path: the file.
      check: compare each record's checksum too; lengths' always are.

    Raises:
      ValueError: the file is cut short or changed, by the number of the record.
    """
    with path.open('rb') as file:
        left, number = os.fstat(file.fileno()).st_size, 0
        while head := file.read(12):
            where = f'{path}: record {number}'
            if len(head) < 12 or _CHECKSUM.unpack_from(head, 8)[0] != masked_crc(head[:8]):
                raise ValueError(f'{where} has no valid length; the file is cut short or changed')
            (length,) = _LENGTH.unpack_from(head)
            left -= 16 + length
            if left < 0:  # before so much memory is asked for
                raise ValueError(f'{where} is cut short')
            record, tail = file.read(length), file.read(4)
            if len(record) < length or len(tail) < 4:
                raise ValueError(f'{where} is cut short')
            if check and _CHECKSUM.unpack(tail)[0] != masked_crc(record):
                raise ValueError(f'{where} is changed: its checksum differs')
            yield record
            number += 1


def masked_crc(data: bytes) -> int:
    """Returns the checksum that the format stores: CRC-32C, turned by 15 bits, plus a constant."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C of some bytes.

    Long data is cut into lanes that advance together, which is legitimate since the checksum is
    linear: leading zeros leave a register of 0 as it is, the initial value may be added to the
    first bytes instead, and a lane's register moves over the lanes after it by a fixed linear map.

    >>> hex(crc32c(b'123456789'))
    '0xe3069283'
    """
    if len(data) < _LANE:
        crc = 0xFFFFFFFF
        for byte in data:
            crc ^= byte
            for _ in range(8):
                crc = (crc >> 1) ^ (_POLYNOMIAL & -(crc & 1))
        return crc ^ 0xFFFFFFFF
    pad = -len(data) % _LANE
    lanes = np.zeros(pad + len(data), np.uint8)
    lanes[pad:] = np.frombuffer(data, np.uint8)
    lanes[pad : pad + 4] ^= 0xFF
    pairs = np.ascontiguousarray(lanes.view('<u2').reshape(-1, _LANE // 2).T)  # [steps, lanes]
    registers = np.zeros(pairs.shape[1], np.uint32)
    for pair in pairs.astype(np.uint32):
        registers = _step(registers ^ pair)
    low, high = _over_a_lane()
    crc = 0
    for register in registers.tolist():
        crc = low[crc & 0xFFFF] ^ high[crc >> 16] ^ register
    return crc ^ 0xFFFFFFFF


def _step(registers: np.ndarray) -> np.ndarray:
    """Moves registers [n] uint32 on by 16 bits."""
    return _table()[registers & 0xFFFF] ^ (registers >> 16)


@functools.cache
def _table() -> np.ndarray:
    """Returns what 16 steps of one bit make of each value of the low 16 bits, uint32."""
    table: np.ndarray = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        table = (table >> 1) ^ (np.uint32(_POLYNOMIAL) * (table & 1))
    return table


@functools.cache
def _over_a_lane() -> tuple[list[int], list[int]]:
    """Returns what a lane of zeros makes of each value of the low and of the high 16 bits."""
    low: np.ndarray = np.arange(1 << 16, dtype=np.uint32)
    high = np.left_shift(low, np.uint32(16))
    for _ in range(_LANE // 2):
        low, high = _step(low), _step(high)
    return low.tolist(), high.tolist()
