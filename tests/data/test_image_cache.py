"""The image cache: the same bytes, found again, mended, and safe among processes that die."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from small_data import encode, picture, split_of, write_pack

from jax_prompt.data.image_cache import StoredImages, cached_images
from jax_prompt.data.loader import load_images
from jax_prompt.data.open import open_source
from jax_prompt.data.source import Split, concatenate
from jax_prompt.data.transforms import StoredView
from jax_prompt.runs.config import Input, RunConfig
from jax_prompt.runs.inputs import join, load_split, open_data

ROOT = Path(__file__).resolve().parents[2]
VIEW = StoredView(8, 'bilinear_tf')


def counted(count: int = 9, name: str = 'train', identity: str = 'a task') -> tuple[Split, list]:
    """Returns a split with an identity, and the list of the images that were decoded."""
    split, decoded = split_of([picture(i) for i in range(count)], name), []

    def read(i):
        decoded.append(i)
        return split.read(i)

    return dataclasses.replace(split, read=read, identity=identity), decoded


def load(folder: Path, split: Split, **changes) -> np.ndarray:
    return cached_images(folder, split, VIEW._replace(**changes))


def test_made_once_and_the_same_as_without(tmp_path):
    split, decoded = counted()
    want = load_images(split, VIEW)
    decoded.clear()
    first, again = load(tmp_path / 'new', split), load(tmp_path / 'new', split)
    assert sorted(decoded) == list(range(9))
    assert np.array_equal(first, want) and np.array_equal(again, want)
    assert isinstance(again, np.memmap) and not again.flags.writeable
    files = sorted(path.suffix for path in (tmp_path / 'new').iterdir())
    assert files == ['.json', '.npy']


@pytest.mark.parametrize(
    'change',
    [
        {'size': 9},
        {'method': 'bicubic'},
        {'crop': 'centre'},
        {'crop': 'centre', 'crop_ratio': 1.0},
        {'identity': 'another task'},
        {'count': 8},
    ],
    ids=str,
)
def test_what_makes_other_images_makes_another_entry(tmp_path, change):
    own = {key: change[key] for key in ('identity', 'count') if key in change}
    options = {key: change[key] for key in change if key not in own}
    load(tmp_path, counted()[0])
    load(tmp_path, counted()[0], crop='centre', crop_ratio=0.5)
    split, decoded = counted(**own)
    got = load(tmp_path, split, **options)
    assert len(decoded) == len(split)
    assert np.array_equal(got, load_images(split, VIEW._replace(**options)))


def test_a_damaged_entry_is_made_anew(tmp_path, caplog):
    split, decoded = counted()
    want = np.array(load(tmp_path, split))
    (file,) = tmp_path.glob('*.npy')
    (described,) = tmp_path.glob('*.json')
    whole, entry = file.read_bytes(), described.read_text()

    def mended():
        decoded.clear()
        got = load(tmp_path, split)
        return np.array_equal(got, want) and len(decoded) == 9

    changed = bytearray(whole)
    changed[-5] ^= 1
    for content in (bytes(changed), whole[:-100], b''):
        file.unlink()
        file.write_bytes(content)
        assert mended()
    assert 'made anew' in caplog.text
    for text in (entry[:20], '[]', '{"file": "x.npy"}'):
        described.write_text(text)
        assert mended()
    file.unlink()
    assert mended()
    for path in (file, described):  # reading a pipe would wait for ever
        path.unlink()
        os.mkfifo(path)
        assert mended() and path.is_file()


def test_images_that_fail_leave_nothing(tmp_path):
    def read(i):
        raise ValueError(f'pets[{i}]: broken')

    broken = Split('train', np.zeros(3, np.int32), read, str, 'broken')
    with pytest.raises(ValueError, match=r'3 of the 3 images .*\n  pets\[0\]: broken'):
        load(tmp_path, broken)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"split 'train' has no identity; it can't be cached"):
        load(tmp_path, split_of([picture(0)]))


# Begins an entry of a pack and never ends.
_CODE = """
import dataclasses, pathlib, sys, time
from jax_prompt.data.image_cache import cached_images
from jax_prompt.data.open import open_source
from jax_prompt.data.transforms import StoredView
split = open_source(sys.argv[1]).splits['train']
stuck = dataclasses.replace(split, read=lambda i: time.sleep(600))
cached_images(pathlib.Path(sys.argv[2]), stuck, StoredView(8, 'bilinear_tf'))
"""


def test_several_at_once_and_one_that_is_killed(tmp_path):
    pack = write_pack(tmp_path / 'p.npz', [encode(picture(i)) for i in range(20)])
    folder = tmp_path / 'cache'
    words = [sys.executable, '-c', _CODE, str(pack), str(folder)]
    killed = subprocess.Popen(words, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    split = open_source(str(pack)).splits['train']
    together = threading.Barrier(3)

    def read(i):
        if i == 0:
            together.wait(timeout=60)  # all three are at it before one ends
        return split.read(i)

    same = dataclasses.replace(split, read=read)
    deadline = time.monotonic() + 120
    while not list(folder.glob('.part_*')) and time.monotonic() < deadline:
        time.sleep(0.05)
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: load(folder, same), range(3)))
    want = load_images(split, VIEW)
    assert all(np.array_equal(one, want) for one in made)
    assert killed.poll() is None
    killed.kill()
    killed.wait()
    (left,) = folder.glob('.part_*')  # of the killed one; nothing is locked
    (described,) = folder.glob('*.json')
    (file,) = folder.glob('*.npy')
    assert json.loads(described.read_text())['file'] == file.name
    before = file.stat().st_mtime_ns
    assert np.array_equal(load(folder, split), want)
    assert file.stat().st_mtime_ns == before
    # The next one that makes an entry removes it, and another machine's when it is a day old.
    for other in ('.part_other-0-1-0', 'x.json.other-0-1-0.part'):
        (folder / other).touch()
        for age, stays in ((3600, True), (25 * 3600, False)):
            os.utime(folder / other, (time.time() - age,) * 2)
            load(folder, counted(identity=f'{other} after {age} s')[0])
            assert (folder / other).exists() == stays and not left.exists()


def test_stored_images_are_a_stream():
    images = [np.stack([picture(i) for i in one]) for one in (range(5), range(5, 8))]
    splits = [split_of(list(one)) for one in images]
    both = concatenate('train+val', splits)
    stream = StoredImages(both, images)
    order = np.array([[0, 7, 4], [5, 5, 1]])
    for row, (got, labels) in zip(order, stream.batches(order), strict=True):
        assert np.array_equal(got, np.stack([picture(i) for i in row]))
        assert labels.tolist() == both.labels[row].tolist()
    assert len(stream) == 8
    with pytest.raises(ValueError, match=r'indices 0\.\.8 leave 8 examples'):
        stream.batches(np.array([[0, 8]]))
    with pytest.raises(ValueError, match='5 images, 8 labels'):
        StoredImages(both, images[:1])


@pytest.mark.parametrize('budget', [100.0, 0.0001])
def test_a_run_sees_the_same_with_and_without(tmp_path, budget):
    pack = write_pack(tmp_path / 'p.npz', [encode(picture(i)) for i in range(30)])
    seen = {}
    for cache in ('', str(tmp_path / 'cache'), str(tmp_path / 'cache')):
        options = Input(budget_mb=budget, image_cache=cache)
        config = RunConfig(
            data=str(pack), backbone='vit_micro', method='linear', search=False, input=options
        )
        splits = open_data(config, config.data).splits
        parts = [splits['train'], splits['val']]
        loaded = [load_split(config, one, 16) for one in parts]
        both = join(config, parts, loaded, 16)
        order = np.arange(24).reshape(4, 6)
        rows = both.data.batches(order) if budget < 1 else zip(*_rows(both, order), strict=True)
        images, labels = zip(*rows, strict=True)
        seen.setdefault('images', []).append(np.stack(images))
        seen.setdefault('labels', []).append(np.stack(labels))
    for name, values in seen.items():
        assert all(np.array_equal(values[0], other) for other in values[1:]), name
    assert len(list((tmp_path / 'cache').glob('*.npy'))) == 2


def _rows(data, order):
    return [data.data[row] for row in order], [data.labels[row] for row in order]
