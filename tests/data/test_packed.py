"""Packed npz: what is read, how, and what is refused."""

import zipfile

import numpy as np
import pytest
from small_data import encode, picture, write_pack

from jax_prompt.data.open import check, open_source
from jax_prompt.data.packed import _read

FILES = [encode(picture(i)) for i in range(20)]


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_a_pack_comes_back(tmp_path, save):
    path = write_pack(tmp_path / 'pets.npz', FILES, save)
    source = open_source(str(path))
    assert source.name == 'pets.npz' and source.classes == ('cat', 'dog')
    assert {n: len(s) for n, s in source.splits.items()} == {'train': 12, 'val': 4, 'test': 4}
    start = 0
    for name in ('train', 'val', 'test'):
        split = source.splits[name]
        for i in range(len(split)):
            assert np.array_equal(split.read(i), picture(start + i))
            assert split.where(i) == f'pets.npz[{start + i}]'
            assert split.labels[i] == (start + i) % 2
        start += len(split)


def test_uncompressed_bytes_are_mapped_not_read(tmp_path):
    path = write_pack(tmp_path / 'a.npz', FILES)
    arrays, _ = _read(path)
    assert isinstance(arrays['bytes'], np.memmap)
    assert arrays['bytes'].tobytes() == b''.join(FILES)
    packed, _ = _read(write_pack(tmp_path / 'b.npz', FILES, np.savez_compressed))
    assert not isinstance(packed['bytes'], np.memmap)


def test_fingerprint(tmp_path):
    plain = open_source(str(write_pack(tmp_path / 'a.npz', FILES))).fingerprint
    packed = write_pack(tmp_path / 'b.npz', FILES, np.savez_compressed)
    assert open_source(str(packed)).fingerprint == plain
    labels = (np.arange(20) // 2 % 2).astype(np.int32)
    changed = [
        write_pack(tmp_path / 'c.npz', FILES, label=labels),
        write_pack(tmp_path / 'd.npz', FILES, split=np.repeat([0, 1, 2], [8, 8, 4])),
        write_pack(tmp_path / 'e.npz', [*FILES[1:2], *FILES[1:]]),
        write_pack(tmp_path / 'f.npz', FILES, classes=np.array(['cat', 'emu'])),
    ]
    assert len({open_source(str(path)).fingerprint for path in changed} | {plain}) == 5


def test_val_is_taken_from_train_where_there_is_none(tmp_path):
    split = np.repeat([0, 2], [15, 5])
    path = write_pack(tmp_path / 'a.npz', FILES, split=split)
    source = open_source(str(path), val_fraction=0.2, test_fraction=0.5, seed=3)
    assert {n: len(s) for n, s in source.splits.items()} == {'train': 12, 'val': 3, 'test': 5}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'label': None}, r"a\.npz: .*'label'.* missing"),
        ({'classes': None, 'split': None}, r"'classes', 'split'"),
        ({'offset': np.arange(5)}, '20 labels, 5 offsets'),
        ({'split': np.zeros(3, np.uint8)}, '3 splits'),
        ({'label': np.zeros(20, np.float32)}, 'label is float32'),
        ({'label': np.zeros((20, 1), np.int32)}, r'label is int32 \[20, 1\]'),
        ({'bytes': np.zeros(9, np.uint16)}, 'bytes is uint16'),
        ({'label': np.arange(20, dtype=np.int32)}, r'a\.npz\[2\]: label 2 .* 18 labels'),
        ({'label': np.full(20, -1, np.int32)}, r'a\.npz\[0\]: label -1'),
        ({'split': np.arange(20, dtype=np.uint8)}, r'a\.npz\[3\]: split 3; allowed: 0 train'),
        ({'split': np.ones(20, np.uint8)}, 'no example has split 0'),
        ({'label': np.zeros(20, np.int32)}, "no training images of 'dog'"),
        ({'classes': np.array(['cat', 'dog', 'emu'])}, "no training images of 'emu'"),
        ({'classes': np.array(['cat', 'cat'])}, 'each named once'),
        ({'bytes': np.zeros(100, np.uint8)}, 'its 100 bytes; is the file whole'),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, message):
    path = write_pack(tmp_path / 'a.npz', FILES, **changes)
    with pytest.raises(ValueError, match=message):
        open_source(str(path))


def test_offsets_that_go_back_are_named(tmp_path):
    offset = np.cumsum([0, *map(len, FILES)])
    offset[7] = offset[6]
    path = write_pack(tmp_path / 'a.npz', FILES, offset=offset)
    with pytest.raises(ValueError, match=r'a\.npz\[6\] has no bytes'):
        open_source(str(path))


def test_pickles_are_refused(tmp_path):
    path = write_pack(tmp_path / 'a.npz', FILES, classes=np.array(['cat', object()], object))
    with pytest.raises(ValueError, match=r'a\.npz: not a readable pack.*allow_pickle'):
        open_source(str(path))


def test_truncated_and_foreign_files(tmp_path):
    path = write_pack(tmp_path / 'a.npz', FILES)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r'a\.npz: not a readable pack'):
        open_source(str(path))
    with zipfile.ZipFile(tmp_path / 'b.npz', 'w') as archive:
        for name in ('bytes', 'offset', 'label', 'split', 'classes'):
            archive.writestr(f'{name}.npy', b'nothing')
    with pytest.raises(ValueError, match=r'b\.npz: not a readable pack'):
        open_source(str(tmp_path / 'b.npz'))


def test_corrupt_image_is_named_by_its_place(tmp_path):
    files = [encode(picture(i), 'JPEG') for i in range(20)]
    files[13] = files[13][: len(files[13]) // 2]
    source = open_source(str(write_pack(tmp_path / 'a.npz', files)))
    check(source.splits['train'])
    with pytest.raises(ValueError, match=r"1 of the 4 .*'val'.*\n.*a\.npz\[13\]"):
        check(source.splits['val'])


@pytest.mark.parametrize(
    ('name', 'classes', 'counts', 'side'),
    [
        ('flowers5', 5, (800, 200, 1500), 128),
        ('cifar10_jpg', 10, (800, 200, 1500), 32),
        ('dtd10', 10, (480, 120, 600), 224),
    ],
)
def test_real_packs(shared_real, name, classes, counts, side):
    source = open_source(str(shared_real / f'{name}.npz'))
    assert len(source.classes) == classes
    assert tuple(len(source.splits[n]) for n in ('train', 'val', 'test')) == counts
    for split in source.splits.values():
        assert set(np.unique(split.labels)) == set(range(classes))
        assert split.read(len(split) - 1).shape == (side, side, 3)


def test_real_pack_without_val(shared_real):
    source = open_source(str(shared_real / 'tiny_imagenet32.npz'), val_fraction=0.02)
    assert {n: len(s) for n, s in source.splits.items()} == {
        'train': 49000,
        'val': 1000,
        'test': 5000,
    }
    assert np.bincount(source.splits['val'].labels).tolist() == [5] * 200
