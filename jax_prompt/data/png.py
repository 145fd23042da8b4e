"""Whether a PNG file holds all the rows that it says.

Pillow takes a PNG whose compressed data ends early for whole, and shows the missing rows black.
"""

import struct
import zlib

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # a pixel, by colour type
# Adam7: first column, first row, step across, step down of each pass.
_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
_BLOCK = 1 << 20


def missing_bytes(data: bytes) -> int:
    """Returns how many bytes of pixels a PNG file lacks; 0 where it is whole.

    Args:
      data: the file, whose chunks were checked.
    """
    width, height, bits, colour, _, _, interlaced = struct.unpack('>IIBBBBB', data[16:29])
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    wanted = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            wanted += rows * (1 + (columns * bits * _SAMPLES[colour] + 7) // 8)
    return max(wanted - _unpacked(data, wanted), 0)


def _unpacked(data: bytes, most: int) -> int:
    """Returns how many bytes the image data unpacks to; stops at `most`."""
    unpack, count, place = zlib.decompressobj(), 0, 8
    while place + 8 <= len(data) and count < most:
        length, kind = struct.unpack('>I4s', data[place : place + 8])
        part = data[place + 8 : place + 8 + length] if kind == b'IDAT' else b''
        while part and not unpack.eof and count < most:
            count += len(unpack.decompress(part, _BLOCK))
            part = unpack.unconsumed_tail
        place += length + 12
    return count
