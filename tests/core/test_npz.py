"""Arrays of .npz files: what numpy wrote is read, all else is refused by name."""

import io
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from jax_prompt.core import archive
from jax_prompt.core.npz import list_arrays, read_array

ARRAYS = {
    'a': np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    'fortran': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    'one': np.float16(2.5),
    'none': np.zeros((0, 3), np.int64),
    'text': np.array('{"a": 1}'),
    'texts': np.array(['cat', 'dogs']),
    'flags': np.array([True, False]),
    'big-endian': np.arange(3, dtype='>i4'),
}


def _header(text, data=b'', version=b'\x01\x00'):
    text = text.encode() if isinstance(text, str) else text
    length = struct.pack('<H' if version == b'\x01\x00' else '<I', len(text))
    return b'\x93NUMPY' + version + length + text + data


def _read(path):
    return {name: read_array(path, member) for name, member in list_arrays(path).items()}


def _npz(path, *members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, 'w', method) as opened:
        for name, data in members:
            opened.writestr(name, data)
    return path


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_what_numpy_wrote_comes_back(save, tmp_path):
    path = tmp_path / 'a.npz'
    save(path, **ARRAYS)
    got = _read(path)
    assert got.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert got[name].dtype == np.asarray(array).dtype and got[name].shape == np.shape(array)
        np.testing.assert_array_equal(got[name], array)


HEADERS = {
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2L,)}\n",
    "{'shape': (2,), 'fortran_order': False, 'descr': '<f4'}  \n",
}


@pytest.mark.parametrize('text', sorted(HEADERS))
@pytest.mark.parametrize('version', [b'\x01\x00', b'\x02\x00', b'\x03\x00'])
def test_headers_of_other_writers(text, version, tmp_path):
    path = _npz(tmp_path / 'a.npz', ('a.npy', _header(text, b'\0' * 8, version)))
    np.testing.assert_array_equal(_read(path)['a'], np.zeros(2, np.float32))


FLOATS = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"
BAD = {
    'nested': '(' * 9000,
    'minus': '-' * 9000 + '1',
    'not': 'not ' * 2000 + '1',
    'open text': "{'descr': '<f4",
    'negative': FLOATS % '(-1, -2)',
    'a bool': FLOATS % '(True, 2)',
    'a fraction': FLOATS % '(2.0,)',
    'no tuple': FLOATS % '2',
    'huge': FLOATS % '(1099511627776, 1099511627776)',
    'a long number': FLOATS % f'({"9" * 5000},)',
    'many axes': FLOATS % f'({"1," * 40})',
    'structure': "{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (2,)}",
    'a long type': "{'descr': '|V99999999999', 'fortran_order': False, 'shape': (2,)}",
    'dates': "{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (2,)}",
    'a call': "{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (2,)}",
    'twice nothing': "{'descr': '<f4', 'shape': (2,)}",
}


@pytest.mark.parametrize('case', BAD)
def test_headers_that_are_none_are_refused(case, tmp_path):
    path = _npz(tmp_path / 'a.npz', ('a.npy', _header(BAD[case], b'\0' * 8)))
    with pytest.raises(ValueError, match="array 'a' is not read: "):
        _read(path)


def _npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_two_arrays_of_one_name_are_refused(tmp_path):
    one, two = _npy(np.zeros(2)), _npy(np.ones(2))
    with pytest.warns(UserWarning, match='Duplicate name'):
        path = _npz(tmp_path / 'a.npz', ('a.npy', one), ('a.npy', two))
    with pytest.raises(ValueError, match=r"several files of one name: 'a\.npy'"):
        _read(path)
    path = _npz(tmp_path / 'b.npz', ('a.npy', one), ('a', two))
    with pytest.raises(ValueError, match="several arrays of one name: 'a'"):
        _read(path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = _npz(tmp_path / 'a.npz', ('a.npy', _npy(np.zeros(2**20))), method=zipfile.ZIP_DEFLATED)
    assert _read(path)['a'].nbytes == 2**23
    monkeypatch.setattr(archive, '_SMALL', 2**20)
    tracemalloc.start()
    with pytest.raises(ValueError, match='bytes that unpacks to'):
        _read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_members_that_lie_on_each_other_are_refused(tmp_path):
    members = [(f'{i}.npy', _npy(np.zeros(99))) for i in range(3)]
    data = _npz(tmp_path / 'a.npz', *members).read_bytes()
    second, directory = data.index(b'PK\x03\x04', 1), data.index(b'PK\x01\x02')
    short, place = bytearray(data[:second] + data[directory:]), -1
    while (place := short.find(b'PK\x01\x02', place + 1)) >= 0:
        struct.pack_into('<I', short, place + 42, 0)  # all at the file's first member
    struct.pack_into('<I', short, short.rindex(b'PK\x05\x06') + 16, second)
    (tmp_path / 'a.npz').write_bytes(short)
    with pytest.raises(ValueError, match='its members overlap'):
        _read(tmp_path / 'a.npz')


def test_other_packing_and_secrets_are_refused(tmp_path):
    path = _npz(tmp_path / 'a.npz', ('a.npy', _npy(np.zeros(9))), method=zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match='packed by method 12'):
        _read(path)
    data = bytearray(_npz(path, ('a.npy', _npy(np.zeros(9)))).read_bytes())
    data[data.rindex(b'PK\x01\x02') + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match='encrypted'):
        _read(path)


@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_changed_bytes_are_seen(method, tmp_path):
    path = _npz(tmp_path / 'a.npz', ('a.npy', _npy(np.arange(999))), method=method)
    entry = list_arrays(path)['a'].entry
    data = bytearray(path.read_bytes())
    for place in range(entry.start + 200, entry.start + entry.packed, 100):
        data[place] ^= 8
        path.write_bytes(data)
        with pytest.raises(
            ValueError, match=r"array 'a' is not read: .*(Bad CRC|bytes are damaged|unpacks to)"
        ):
            _read(path)
        data[place] ^= 8


def test_fewer_bytes_than_promised_are_seen(tmp_path):
    """A deflated member that ends early, or goes on, whatever the archive says of its size."""
    path = _npz(tmp_path / 'a.npz', ('a.npy', _npy(np.zeros(999))), method=zipfile.ZIP_DEFLATED)
    entry = list_arrays(path)['a'].entry
    for size in (entry.size + 8, entry.size - 8):
        with pytest.raises(ValueError, match=r'unpacks to|Bad CRC'):
            archive.unpack(path, entry._replace(size=size, crc=zlib.crc32(b'')))


@pytest.mark.parametrize('content', [b'', b'PK', bytes(100)])
def test_what_is_no_archive_is_refused(content, tmp_path):
    (tmp_path / 'a.npz').write_bytes(content)
    with pytest.raises(ValueError, match='it is truncated or damaged'):
        _read(tmp_path / 'a.npz')
