"""Image folders: layouts, what is passed over, what is refused."""

import logging
import os

import numpy as np
import pytest
from small_data import encode, picture, write_class

from jax_prompt.data.open import check, open_source


def two_classes(root, count=10):
    write_class(root / 'dog', count)
    write_class(root / 'cat', count, first=50)
    return root


def names(split):
    return [split.where(i) for i in range(len(split))]


def test_without_split_folders(tmp_path):
    source = open_source(str(two_classes(tmp_path)), val_fraction=0.3, seed=1)
    assert source.classes == ('cat', 'dog')
    assert {name: len(split) for name, split in source.splits.items()} == {'train': 14, 'val': 6}
    assert np.bincount(source.splits['val'].labels).tolist() == [3, 3]
    both = names(source.splits['train']) + names(source.splits['val'])
    assert len(set(both)) == 20
    for split in source.splits.values():
        assert split.labels.dtype == np.int32
        for i in range(len(split)):
            path = split.where(i)
            assert source.classes[split.labels[i]] in path
            assert np.array_equal(split.read(i), picture(int(path[-7:-4])))


def test_a_test_split_is_taken_when_asked(tmp_path):
    source = open_source(str(two_classes(tmp_path)), val_fraction=0.2, test_fraction=0.4)
    assert {n: len(s) for n, s in source.splits.items()} == {'train': 8, 'val': 4, 'test': 8}


def test_seed_chooses_the_split(tmp_path):
    data = str(two_classes(tmp_path))
    first, again, other = (open_source(data, seed=seed) for seed in (1, 1, 2))
    assert names(first.splits['val']) == names(again.splits['val'])
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert names(first.splits['val']) != names(other.splits['val'])


def test_fingerprint_is_of_the_data_not_of_its_place(tmp_path):
    one, two = two_classes(tmp_path / 'a' / 'set'), two_classes(tmp_path / 'b' / 'set')
    prints = {open_source(str(root)).fingerprint for root in (one, two)}
    assert len(prints) == 1
    (two / 'dog' / '003.png').write_bytes(encode(picture(3), compress_level=0))
    assert open_source(str(two)).fingerprint not in prints


@pytest.mark.parametrize('val', ['val', 'valid', 'validation', 'VAL'])
def test_with_split_folders(tmp_path, val):
    two_classes(tmp_path / 'train')
    two_classes(tmp_path / val, 3)
    write_class(tmp_path / 'test' / 'dog', 2)
    source = open_source(str(tmp_path), val_fraction=0.5, test_fraction=0.5)
    assert {n: len(s) for n, s in source.splits.items()} == {'train': 20, 'val': 6, 'test': 2}
    assert source.splits['test'].labels.tolist() == [1, 1]


def test_val_from_train_beside_a_test_folder(tmp_path):
    two_classes(tmp_path / 'train')
    two_classes(tmp_path / 'test', 3)
    source = open_source(str(tmp_path))
    assert {n: len(s) for n, s in source.splits.items()} == {'train': 16, 'val': 4, 'test': 6}


def test_a_class_may_be_called_train(tmp_path):
    for name in ('train', 'bus', 'car'):
        write_class(tmp_path / name, 5)
    assert open_source(str(tmp_path)).classes == ('bus', 'car', 'train')


def test_nested_linked_hidden_and_other_files(tmp_path, caplog):
    root, elsewhere = two_classes(tmp_path / 'set'), tmp_path / 'elsewhere'
    write_class(root / 'dog' / 'deep' / 'er', 1, first=90)
    write_class(elsewhere, 2, first=70)
    os.symlink(elsewhere, root / 'cat' / 'linked')
    os.symlink(elsewhere / '070.png', root / 'dog' / 'link.png')
    os.symlink(root / 'cat', root / 'cat' / 'loop')
    (root / 'dog' / 'UPPER.PNG').write_bytes(encode(picture(7)))
    write_class(root / '.hidden', 1)
    write_class(root / 'cat' / '__MACOSX', 1)
    (root / 'cat' / '._050.png').write_bytes(b'x')
    (root / 'cat' / 'notes.txt').write_text('x')
    (root / 'README.md').write_text('x')
    with caplog.at_level(logging.WARNING):
        source = open_source(str(root))
    paths = names(source.splits['train']) + names(source.splits['val'])
    assert sum('cat' in os.path.relpath(p, root) for p in paths) == 12
    assert sum('dog' in os.path.relpath(p, root) for p in paths) == 13
    assert 'passed over 5' in caplog.text and 'README.md' in caplog.text


def test_empty_class_folder(tmp_path):
    (two_classes(tmp_path) / 'emu').mkdir()
    with pytest.raises(ValueError, match=r'emu: class folder without images'):
        open_source(str(tmp_path))


def test_class_that_train_lacks(tmp_path):
    two_classes(tmp_path / 'train')
    two_classes(tmp_path / 'val', 2)
    write_class(tmp_path / 'val' / 'emu', 1)
    with pytest.raises(ValueError, match=r'emu.000\.png: .*no counterpart in train.*cat'):
        open_source(str(tmp_path))


def test_no_class_folders(tmp_path):
    (tmp_path / '1.png').write_bytes(encode(picture(1)))
    with pytest.raises(ValueError, match='no class folders'):
        open_source(str(tmp_path))


def test_one_class_is_no_task(tmp_path):
    write_class(tmp_path / 'dog', 5)
    with pytest.raises(ValueError, match='at least two'):
        open_source(str(tmp_path))


def test_split_folders_without_train(tmp_path):
    two_classes(tmp_path / 'val')
    two_classes(tmp_path / 'test')
    with pytest.raises(ValueError, match=r"'test', 'val'.*train folder"):
        open_source(str(tmp_path))


def test_the_same_split_twice(tmp_path):
    for name in ('train', 'val', 'valid'):
        two_classes(tmp_path / name, 2)
    with pytest.raises(ValueError, match='val and valid are the same split'):
        open_source(str(tmp_path))


def test_broken_link_is_named(tmp_path):
    os.symlink(tmp_path / 'gone', two_classes(tmp_path / 'set') / 'dog' / 'link.png')
    with pytest.raises(ValueError, match=r'link\.png: not readable'):
        open_source(str(tmp_path / 'set'))


def test_check_names_every_corrupt_image(tmp_path):
    root = two_classes(tmp_path / 'train')
    two_classes(tmp_path / 'val', 1)
    for i in range(4):
        (root / 'dog' / f'{i:03d}.png').write_bytes(encode(picture(i))[:60])
    source = open_source(str(tmp_path))
    check(source.splits['val'])
    with pytest.raises(ValueError, match="4 of the 20 images of split 'train'") as error:
        check(source.splits['train'])
    assert all(f'{i:03d}.png' in str(error.value) for i in range(4))
    assert '004.png' not in str(error.value)


def test_check_names_ten_and_counts_all(tmp_path):
    root = two_classes(tmp_path, 20)
    for path in (root / 'dog').iterdir():
        path.write_bytes(b'broken')
    with pytest.raises(ValueError, match=r'16 of the 32 .*') as error:
        check(open_source(str(root)).splits['train'])
    assert str(error.value).count('.png') == 10 and 'and 6 more' in str(error.value)


def test_file_that_vanished(tmp_path):
    source = open_source(str(two_classes(tmp_path)))
    path = source.splits['train'].where(0)
    os.remove(path)
    with pytest.raises(ValueError, match='not readable'):
        source.splits['train'].read(0)


@pytest.mark.parametrize('data', ['no/such/folder', 'gone.npz', 'cifar', ''])
def test_what_is_allowed_is_said(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"allowed: .*npz.*tfds:NAME.*'digits'"):
        open_source(data or str(tmp_path / 'a.txt'))
