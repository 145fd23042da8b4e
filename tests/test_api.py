"""The Python interface: what it takes, what it refuses, and that it is the command's equal."""

import gc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_data import encode, picture, write_class

import jax_prompt
from jax_prompt.cli.main import run_command
from jax_prompt.data.decode import decode_image
from jax_prompt.data.handed import (
    class_codes,
    class_values,
    find_classes,
    handed_split,
    label_names,
)
from jax_prompt.runs.restore import restore

# configs/tune.py with little to do.
FEW = {'method': 'linear', 'lr': 1e-2, 'epochs': 2, 'batch_size': 8, 'seed': 3}
FEW |= {'engine': {'num_devices': 1}, 'optim': {'clip_norm': 5.0}}
IMAGES = [picture(i, 20 + i, 24) for i in range(12)]
NUMBERS = np.array([2, 10] * 6)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('images')
    write_class(root / 'cat', 6)
    write_class(root / 'dog', 6, first=20)
    return root


@pytest.fixture(scope='module')
def tuned(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'folder'
    return jax_prompt.tune(folder, workdir=workdir, quiet=True, **FEW)


@pytest.fixture(scope='module')
def numbered(tmp_path_factory):
    """Tuned to arrays of several sizes with whole numbers as labels."""
    workdir = tmp_path_factory.mktemp('runs') / 'arrays'
    return jax_prompt.tune((IMAGES, NUMBERS), workdir=workdir, quiet=True, **FEW)


def test_it_trains_as_the_command_does(tuned, folder, tmp_path):
    words = ['--config', 'tune:method=linear', f'--config.data={folder}', '--config.search=False']
    words += ['--config.lr=1e-2', '--config.epochs=2', '--config.batch_size=8', '--config.seed=3']
    words += [
        '--config.engine.num_devices=1',
        '--config.optim.clip_norm=5',
        '--workdir',
        str(tmp_path / 'run'),
    ]
    run_command(['train', *words, '--compilation_cache='])
    loaded = jax_prompt.load(tmp_path / 'run')
    assert loaded.result['trained_sha256'] == tuned.result['trained_sha256']
    assert loaded.result['num_trainable'] == 2 * 128 + 2
    assert repr(loaded).startswith('Tuned(linear on vit_micro: 2 classes of images')


def test_files_and_their_pixels_have_the_same_prediction(tuned, folder):
    paths = sorted(folder.glob('*/*.png'))
    wanted = restore(tuned.workdir).predict(paths)
    pixels = [decode_image(path.read_bytes(), path.name) for path in paths]
    for images in (paths, [str(path) for path in paths], folder, pixels, np.stack(pixels)):
        np.testing.assert_array_equal(tuned.predict_proba(images), wanted)
    assert list(tuned.classes_) == ['cat', 'dog']
    assert list(tuned.predict(folder)) == [tuned.classes_[k] for k in wanted.argmax(1)]
    np.testing.assert_array_equal(
        tuned.predict_proba(str(paths[0])), tuned.predict_proba(paths[:1])
    )


def test_floats_are_rounded_to_the_pixels_of_a_file(tuned):
    images = np.stack([picture(i) for i in range(3)])
    wanted = tuned.predict_proba(images)
    np.testing.assert_array_equal(tuned.predict_proba(images / 255), wanted)
    np.testing.assert_array_equal(tuned.predict_proba((images / 255).astype(np.float32)), wanted)
    between = handed_split(np.full((1, 2, 2, 3), 99.6 / 255)).read(0)
    assert between.dtype == np.uint8 and (between == 100).all()


def test_whole_numbers_stay_numbers(numbered):
    assert numbered.classes_.dtype == np.int64 and list(numbered.classes_) == [2, 10]
    guesses = numbered.predict(IMAGES)
    assert numbered.score(IMAGES, NUMBERS) == np.mean(guesses == NUMBERS)
    assert numbered.score(IMAGES, NUMBERS.tolist()) == numbered.score(IMAGES, ['2', '10'] * 6)
    assert list(jax_prompt.load(numbered.workdir).classes_) == [2, 10]


def test_evaluation_takes_all_kinds_of_data(tuned, folder):
    own = tuned.evaluate(split='val')
    assert own['split'] == 'val' and own['num'] == 2 and 'seen_in_training' not in own
    everything = tuned.evaluate(folder / '.', split='train')
    assert everything['seen_in_training']
    paths = sorted(folder.glob('*/*.png'))
    labels = [path.parent.name for path in paths]
    found = tuned.evaluate((paths, labels))
    assert found['num'] == 12
    assert (
        found['accuracy'] == tuned.score(paths, labels) == np.mean(tuned.predict(paths) == labels)
    )


def test_the_same_arrays_go_on_and_others_are_refused(numbered):
    again = jax_prompt.tune((IMAGES, NUMBERS), workdir=numbered.workdir, quiet=True, **FEW)
    assert again.result == numbered.result
    assert len(list(numbered.workdir.parent.glob('arrays-*.npz'))) == 1
    with pytest.raises(ValueError, match='another configuration, which differs in data'):
        jax_prompt.tune((IMAGES, NUMBERS[::-1]), workdir=numbered.workdir, quiet=True, **FEW)


def test_paths_with_labels_are_packed_as_they_are(numbered, tmp_path):
    paths = []
    for i, image in enumerate(IMAGES):
        paths.append(tmp_path / f'{i}.png')
        paths[-1].write_bytes(encode(image))
    tuned = jax_prompt.tune((paths, NUMBERS), workdir=tmp_path / 'run', quiet=True, **FEW)
    assert tuned.result['trained_sha256'] == numbered.result['trained_sha256']
    (pack,) = tmp_path.glob('run-*.npz')
    with np.load(pack) as arrays:
        assert arrays['bytes'].tobytes() == b''.join(path.read_bytes() for path in paths)
    paths[4].write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'1 of the 12 images.*\n.*4\.png: not a readable image'):
        jax_prompt.tune((paths, NUMBERS), workdir=tmp_path / 'other', quiet=True, **FEW)


def test_a_temporary_run_goes_with_its_result():
    tuned = jax_prompt.tune((IMAGES, NUMBERS), quiet=True, **FEW)
    place = Path(tuned.workdir).parent
    assert tuned.evaluate(split='val')['num'] == 2 and len(list(place.iterdir())) == 2
    del tuned
    gc.collect()
    assert not place.exists()


@pytest.mark.parametrize(
    ('settings', 'text'),
    [
        (
            {'lrr': 1},
            r'unknown config key lrr; did you mean lr.*\(jax-prompt train --config tune --help',
        ),
        ({'optim': {'momentun': 1}}, r'did you mean optim\.momentum'),
        ({'method': 'linear', 'num_prompts': 3}, 'method linear has no prompts'),
        ({'lr': 1e-3, 'search': True}, 'give one of the two'),
        ({'epochs': 0}, 'epochs is 0'),
        ({'backbone': 'vit_ti16_224', 'lr': 1e-3}, r'pass it as weights=FILE'),
    ],
)
def test_wrong_settings_are_named(folder, settings, text):
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        jax_prompt.tune(folder, quiet=True, **settings)


@pytest.mark.parametrize(
    ('images', 'text'),
    [
        (np.zeros((2, 4, 4), np.uint8), r'images\[None\]'),
        (np.zeros((2, 3, 4, 4), np.uint8), 'colours last'),
        (np.zeros((2, 4, 4, 3), np.int32), 'astype'),
        (np.full((2, 4, 4, 3), 7.0), 'divide by 255'),
        (np.full((2, 4, 0, 3), 1, np.uint8), 'no pixels'),
        ([IMAGES[0], IMAGES[1].astype(np.float32)], r'images\[1\]: .*divide by 255'),
        (np.zeros((0, 4, 4, 3), np.uint8), 'no images'),
        ([], 'no images'),
        (np.array([None]), 'objects'),
        (7, 'images are int; allowed'),
        ('nowhere.png', 'no such file'),
    ],
)
def test_wrong_images_are_refused(images, text):
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        handed_split(images)


@pytest.mark.parametrize(
    ('labels', 'text'),
    [
        (np.zeros(3), r'labels are float64 .*\(labels\.astype\(int\)\)$'),
        (np.zeros((3, 2), int), r'shape \[3, 2\].*\(labels\.argmax\(axis=1\)'),
        (np.array([True, False]), 'labels are bool'),
        (np.array([1, None], object), 'a label is None'),
    ],
)
def test_wrong_labels_are_refused(labels, text):
    with pytest.raises(ValueError, match=text):
        label_names(labels)


def test_labels_become_classes_and_back():
    assert find_classes(['b', 'a', '10']) == ('10', 'a', 'b')
    with pytest.raises(ValueError, match="every label is 'a'; a task has at least two classes"):
        find_classes(['a', 'a'])
    assert class_values(('007', '1')).dtype.kind == 'U'  # 007 is a name
    assert class_values(('-1', '3')).tolist() == [-1, 3]
    assert class_codes(['b', 'a'], ('a', 'b')).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"labels \['c'\] are none of the 2 classes: \['a', 'b'\]"):
        class_codes(['a', 'c'], ('a', 'b'))
    with pytest.raises(ValueError, match='2 images and 1 labels'):
        handed_split(IMAGES[:2], np.zeros(1, np.int32))
    with pytest.raises(ValueError, match='1 images and 2 labels'):
        jax_prompt.tune(('a.png', ['a', 'b']))
    with pytest.raises(ValueError, match='data is list'):
        jax_prompt.tune(['a.png', 'b.png'])


def test_pillow_images_are_no_arrays():
    with pytest.raises(ValueError, match='images are Image; allowed'):
        handed_split(Image.fromarray(IMAGES[0]))
