"""List files that say which images are train, val and test: FGVC's JSON and VTAB-1k's text."""

import json

import numpy as np
import pytest
from PIL import Image
from small_data import encode, picture, write_class

from jax_prompt.data.open import open_source
from jax_prompt.data.preflight import find_state


def write_vtab(root):
    """A task as VTAB-1k is handed on: images in flat folders and a line for each."""
    for split, count in (('train', 10), ('val', 4), ('test', 6)):
        write_class(root / 'images' / split, count)
        lines = [f'images/{split}/{i:03d}.png {10 * (i % 2) + 2}\n' for i in range(count)]
        name = {'train': 'train800', 'val': 'val200', 'test': 'test'}[split]
        (root / f'{name}.txt').write_text(''.join(lines))
    both = (root / 'train800.txt').read_text() + (root / 'val200.txt').read_text()
    (root / 'train800val200.txt').write_text(both)
    return root


def write_fgvc(root, base='images'):
    """A set as its images are handed out, with the published lists."""
    for k, name in enumerate(('001.Auk', '002.Jay')):
        write_class(root / base / name, 10, first=20 * k)
        for split, first in (('train', 0), ('val', 5), ('test', 7)):
            stop = {'train': 5, 'val': 7, 'test': 10}[split]
            path = root / f'{split}.json'
            rows = json.loads(path.read_text()) if path.exists() else {}
            rows |= {f'{name}/{20 * k + i:03d}.png': k + 1 for i in range(first, stop)}
            path.write_text(json.dumps(rows))
    (root / 'train_0.1.json').write_text(json.dumps({'001.Auk/000.png': 1}))
    return root


def sizes(source):
    return {name: len(split) for name, split in source.splits.items()}


def test_vtab_as_it_is_handed_on(tmp_path, caplog):
    source = open_source(str(write_vtab(tmp_path)))
    assert source.classes == ('2', '12')  # in the order of their numbers
    assert sizes(source) == {'train': 10, 'val': 4, 'test': 6}
    test = source.splits['test']
    assert test.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert test.where(3).endswith('images/test/003.png')
    assert np.array_equal(test.read(3), picture(3))
    assert (
        'train by train800.txt, val by val200.txt, test by test.txt; not used: train800val200.txt'
        in caplog.text
    )
    for name in ('train800', 'val200'):
        (tmp_path / f'{name}.txt').unlink()
    assert sizes(open_source(str(tmp_path))) == {'train': 11, 'val': 3, 'test': 6}


@pytest.mark.parametrize('base', ['images', 'Images', ''])
def test_published_lists_of_fgvc(tmp_path, base):
    source = open_source(str(write_fgvc(tmp_path, base)))
    assert source.classes == ('1', '2')
    assert sizes(source) == {'train': 10, 'val': 4, 'test': 6}
    assert source.splits['val'].where(2).endswith('002.Jay/025.png')


def test_the_task_takes_published_lists_where_they_lie(tmp_path):
    root = tmp_path / 'fgvc' / 'cub'
    write_fgvc(root)
    turned = Image.Exif()
    turned[0x0112] = 6
    (root / 'images/001.Auk/000.png').write_bytes(encode(picture(0), exif=turned))
    source = open_source('fgvc/cub', data_dir=str(tmp_path))
    assert source.name == 'fgvc/cub' and sizes(source) == {'train': 10, 'val': 4, 'test': 6}
    # The loaders of the published results do not turn images.
    assert np.array_equal(source.splits['train'].read(0), picture(0))
    state = find_state('fgvc/cub', str(tmp_path))
    assert state.state == 'unfit' and '(10, 4, 6) images' in state.detail


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('val200.txt', 'images/val/000.png 2\nimages/val/001.png\n', r'val200\.txt: line 2 is'),
        ('test.txt', 'gone.png 2\n', r'test\.txt names gone\.png, which is neither in'),
        ('test.txt', 'images/test/000.png 2\ngone.png 2\n', r'gone\.png: not readable: No such'),
        ('test.txt', '../x.png 2\n', r'test\.txt: \.\./x\.png leaves the folder'),
        ('training.txt', 'images/val/000.png 2\n', r'are lists of the same split \(train\)'),
    ],
)
def test_lists_that_do_not_fit_are_named(tmp_path, name, text, message):
    write_vtab(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        open_source(str(tmp_path))


def test_other_files_of_such_names_are_no_lists(tmp_path):
    write_class(tmp_path / 'cat', 5)
    write_class(tmp_path / 'dog', 5)
    (tmp_path / 'train.txt').write_text('cat\ndog\n')
    (tmp_path / 'test.json').write_text('{"images": []}')
    (tmp_path / 'train.json').write_bytes(b'\xff\xfe')
    assert sizes(open_source(str(tmp_path))) == {'train': 8, 'val': 2}
