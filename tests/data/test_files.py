"""Regular files only, names of any bytes, one budget of memory, rows that are missing."""

import io
import os
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image
from small_data import encode, picture, write_class

from jax_prompt.data import decode
from jax_prompt.data.decode import decode_image
from jax_prompt.data.files import read_file
from jax_prompt.data.open import check, open_source
from jax_prompt.data.room import Room


def chunk(kind, data):
    body = kind + data
    return struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))


def png(width, height, rows):
    """A black PNG that says `height` rows and holds `rows`."""
    head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(rows * (1 + 3 * width)))
    parts = [chunk(b'IHDR', head), chunk(b'IDAT', data), chunk(b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes here')
def test_a_pipe_is_an_error_and_no_wait(tmp_path):
    write_class(tmp_path / 'cat', 3)
    write_class(tmp_path / 'dog', 3)
    os.mkfifo(tmp_path / 'cat' / 'f.png')
    for read in (lambda: open_source(str(tmp_path)), lambda: read_file(tmp_path / 'cat/f.png')):
        with pytest.raises(ValueError, match=r'f\.png: a pipe, a socket or a device, not a file'):
            read()
    (tmp_path / 'cat' / 'f.png').unlink()
    (tmp_path / 'cat' / 'z.png').symlink_to('/dev/zero')
    with pytest.raises(ValueError, match=r'z\.png: a pipe'):
        open_source(str(tmp_path))


def test_names_that_are_no_utf8(tmp_path):
    write_class(tmp_path / 'cat', 3)
    write_class(tmp_path / os.fsdecode(b'd\xf6g'), 3)
    bad = tmp_path / 'cat' / os.fsdecode(b'x\xff\n.png')
    try:
        bad.write_bytes(b'bad')
    except OSError:
        pytest.skip('this file system takes UTF-8 names alone')
    source = open_source(str(tmp_path), val_fraction=0.5)
    assert source.classes == ('cat', r'd\udcf6g')
    with pytest.raises(ValueError, match=r'x\\udcff\\n\.png: not a readable image') as error:
        for split in source.splits.values():
            check(split)
    str(error.value).encode()


def test_a_png_without_all_its_rows_is_refused():
    whole = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(whole, 'PNG')
    assert not decode_image(whole.getvalue(), 'a').any()
    with pytest.raises(ValueError, match=r'x\.png: .*ends early: \d+ bytes of its pixels'):
        decode_image(png(30, 20, 10), 'x.png')


def test_an_interlaced_png_that_is_whole_is_read():
    # Passes of a 3 x 2 image: rows of 1, 1 and 2 pixels, and one of 3.
    rows = [bytes([0, 9, 9, 9]), bytes([0, 7, 7, 7]), bytes([0, 5, 5, 5]), bytes([0] + [3] * 9)]
    head = struct.pack('>IIBBBBB', 3, 2, 8, 2, 0, 0, 1)
    parts = [(b'IHDR', head), (b'IDAT', zlib.compress(b''.join(rows))), (b'IEND', b'')]
    data = b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*part) for part in parts)
    assert decode_image(data, 'a')[..., 0].tolist() == [[9, 5, 7], [3, 3, 3]]
    with pytest.raises(ValueError, match='ends early: 10 bytes'):
        parts[1] = (b'IDAT', zlib.compress(b''.join(rows[:3])))
        decode_image(data[:8] + b''.join(chunk(*part) for part in parts), 'a')


def test_more_pixels_than_are_read():
    with pytest.raises(ValueError, match=r'x\.png: more than 178,956,970 pixels.*smaller first'):
        decode_image(png(30000, 30000, 0), 'x.png')


def test_orientations_are_pillows(monkeypatch):
    from PIL import ImageOps

    monkeypatch.setattr(decode, '_STRIP', 40)  # two rows at a time
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(Image.fromarray(picture(1)), 'PNG', exif=exif)
        wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        assert np.array_equal(decode_image(data, 'a'), wanted)


def test_threads_share_the_room():
    room, at_once, most = Room(10), [0], []
    lock = threading.Lock()

    def work(size):
        for _ in range(30):
            with room.keep(), room.reserve(size):
                with lock:
                    at_once[0] += min(size, 10)
                    most.append(at_once[0])
                with lock:
                    at_once[0] -= min(size, 10)

    threads = [threading.Thread(target=work, args=(size,)) for size in (3, 4, 6, 99)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()
    assert 0 < max(most) <= 10


def test_room_is_kept_until_the_image_is_used():
    room = Room(10)
    with room.keep():
        with room.reserve(8):
            pass
        assert room._held == 8
        with room.reserve(9):  # what it had is given back first, else it would wait for itself
            assert room._held == 9
    assert room._held == 0
    with room.reserve(5):
        assert room._held == 5
    assert room._held == 0
