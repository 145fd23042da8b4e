"""Which folders are splits and which are classes; nothing is guessed and nothing dropped."""

import logging

import pytest
from small_data import encode, picture

from jax_prompt.data.layout import find_layout, split_of
from jax_prompt.data.open import open_source

IMAGE = encode(picture(1))


def write(root, *names):
    """Writes an image for each name; 'train/cat*5' writes five into the folder."""
    for name in names:
        folder, _, count = name.partition('*')
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(int(count or 2)):
            (root / folder / f'{i}.png').write_bytes(IMAGE)
    return root


def sizes(root, **options):
    source = open_source(str(root), **options)
    return source.classes, {name: len(split) for name, split in source.splits.items()}


@pytest.mark.parametrize(
    ('name', 'split'),
    [
        *(('train', 'train'), ('Training', 'train'), ('train800', 'train'), ('val200', 'val')),
        *(('test_set', 'test'), ('TestImages', 'test'), ('trainset', 'train'), ('dev', 'val')),
        *(('testing', 'test'), ('VAL', 'val'), ('imgs-train', 'train'), ('valid', 'val')),
        *(('train800val200', 'train+val'), ('trainval', 'train+val'), ('train_val', 'train+val')),
        *(('train_test_split', None), ('steam_train', None), ('trainer', None), ('cat', None)),
        *(('test_tube', None), ('testament', None), ('800', None), ('validate', None)),
    ],
)
def test_names_of_splits(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize(
    ('train', 'val', 'test'),
    [
        ('train_set', 'val_set', 'test_set'),
        ('train800', 'val200', 'test'),
        ('training', 'dev', 'testing'),
        ('seg_train/seg_train', 'seg_val/seg_val', 'seg_test/seg_test'),
        ('train/train', 'val/val', 'test/test'),
        ('pets_train', 'pets-val', 'pets test'),
        ('train/images', 'valid/images', 'test/images'),
        ('trainval', 'val/none', 'test'),
    ],
)
def test_split_folders_are_no_classes(tmp_path, train, val, test):
    root = tmp_path / 'pets'
    write(root, f'{train}/cat*5', f'{train}/dog*5', f'{test}/cat*3')
    if 'none' not in val:
        write(root, f'{val}/dog*4')
        assert sizes(root) == (('cat', 'dog'), {'train': 10, 'val': 4, 'test': 3})
    else:
        assert sizes(root) == (('cat', 'dog'), {'train': 8, 'val': 2, 'test': 3})


def test_a_test_folder_without_classes_is_left_out_and_said(tmp_path, caplog):
    write(tmp_path, 'train/cat*5', 'train/dog*5', 'test*7')
    with caplog.at_level(logging.WARNING):
        assert sizes(tmp_path) == (('cat', 'dog'), {'train': 8, 'val': 2})
    assert 'test: its 7 images lie in no class folders' in caplog.text


def test_other_folders_of_images_are_left_out_and_said(tmp_path, caplog):
    write(tmp_path, *(f'seg_{one}/seg_{one}/{c}' for one in ('train', 'test') for c in 'ab'))
    write(tmp_path, 'seg_pred/seg_pred*9')
    with caplog.at_level(logging.WARNING):
        assert sizes(tmp_path)[1] == {'train': 3, 'val': 1, 'test': 4}
    assert 'seg_pred: its 9 images belong to no split' in caplog.text


def test_loose_images_are_not_said_to_be_no_images(tmp_path, caplog):
    write(tmp_path, 'cat*5', 'dog*5', '.hidden*2')
    (tmp_path / 'x.png').write_bytes(IMAGE)
    with caplog.at_level(logging.WARNING):
        open_source(str(tmp_path))
    assert 'passed over 1 that are in no class folder: x.png' in caplog.text
    assert 'passed over 1 that are hidden or no images: .hidden' in caplog.text


def test_classes_that_are_called_like_splits(tmp_path):
    write(tmp_path, 'train*5', 'bus*5', 'steam_train*5', 'test_tube*5')
    assert sizes(tmp_path)[0] == ('bus', 'steam_train', 'test_tube', 'train')
    write(tmp_path, 'test*5')
    with pytest.raises(ValueError, match=r'test, train look like splits.*class_folders:'):
        find_layout(tmp_path)
    classes, found = sizes(f'class_folders:{tmp_path}')
    assert classes == ('bus', 'steam_train', 'test', 'test_tube', 'train')
    assert found == {'train': 20, 'val': 5}


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['train*3', 'test*3'], 'train look like splits and hold no class folders'),
        (['cat', 'dog', 'testing'], 'testing look like splits and hold no class .*beside cat, dog'),
        (['train/cat', 'train/dog', 'bus', 'car'], r'beside bus, car.*or set data=.*train; if all'),
        (['cat', 'dog', 'test/cat'], 'test look like splits and hold folders, beside cat, dog'),
        (['train/cat', 'train/dog', 'val/cat', 'holdout/cat'], 'holdout lies beside.*rename it'),
        (['train/cat', 'train/dog', 'val/cat', 'cat'], 'cat lies beside .* and is one of'),
        (['train/cat', 'train/dog', 'training/cat'], 'train and training are the same split'),
        (['train/a', 'train/b', 'trainval/a'], 'trainval holds train and val, which have folders'),
        (['archive/cat', 'archive/dog'], r'at least two.*one folder deeper\? data=.*archive'),
    ],
)
def test_what_can_be_read_in_two_ways_is_asked(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        open_source(str(write(tmp_path, *names)))


def test_a_link_upwards_adds_no_image_of_another_class(tmp_path):
    write(tmp_path, 'cat*5', 'dog*5')
    (tmp_path / 'cat' / 'up').symlink_to(tmp_path)
    assert sizes(tmp_path)[1] == {'train': 8, 'val': 2}
