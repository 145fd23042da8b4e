"""The TFDS road, with neither network nor TensorFlow: prepare, open, read, refuse."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_data import encode, picture

from jax_prompt.data.open import check, open_source
from jax_prompt.data.tasks import TASKS, find_task
from jax_prompt.data.tfds_source import prepare_own

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def tfds():
    import tensorflow_datasets

    return tensorflow_datasets


@pytest.fixture(scope='module')
def make_builder(tfds):
    """Returns a function that prepares a builder of pictures in several shards."""

    class SmallPets(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version('1.2.0')
        BUILDER_CONFIGS = [  # noqa: RUF012
            tfds.core.BuilderConfig(name=name, version='1.2.0') for name in ('plain', 'odd', 'two')
        ]
        url_infos = {}  # noqa: RUF012
        counts = {'train': 40, 'test': 10}  # noqa: RUF012

        def _info(self):
            features = {
                'photo': tfds.features.Image(),
                'species': tfds.features.ClassLabel(names=['cat', 'dog']),
                'box': tfds.features.BBoxFeature(),
            }
            if self.builder_config.name == 'two':
                features['mask'] = tfds.features.Image()
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {name: self._generate_examples(name) for name in self.counts}

        def _generate_examples(self, split):
            for i in range(self.counts[split]):
                data = encode(picture(i), 'JPEG' if i % 2 else 'PNG')
                if self.builder_config.name == 'odd' and i == 3:
                    data = data[:50]
                box = tfds.features.BBox(0.0, 0.0, 0.5, 0.5)
                example = {'photo': io.BytesIO(data), 'species': i % 2, 'box': box}
                if self.builder_config.name == 'two':
                    example['mask'] = io.BytesIO(data)
                yield i, example

    def make(folder: Path, config: str, shards: int = 4):
        builder = SmallPets(data_dir=folder, config=config, file_format='array_record')
        options = tfds.download.DownloadConfig(num_shards=shards, try_download_gcs=False)
        tfds.disable_progress_bar()
        builder.download_and_prepare(download_config=options)
        return builder

    return make


@pytest.fixture(scope='module')
def own(tmp_path_factory) -> Path:
    """A folder in which two processes prepared the shapes at once; each prints a fingerprint."""
    folder = tmp_path_factory.mktemp('tfds')
    code = (
        'import sys; from jax_prompt.data.open import open_source; '
        f's = open_source("shapes", data_dir={str(folder)!r}); '
        'assert "tensorflow" not in sys.modules; print(s.fingerprint)'
    )
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    both = [
        subprocess.Popen([sys.executable, '-c', code], env=environment, **pipes) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    prints = {out for out, _ in outputs}
    assert len(prints) == 1
    prints.add(open_source('shapes', data_dir=str(folder)).fingerprint + '\n')
    assert len(prints) == 1
    return folder


def test_two_processes_leave_one_whole_folder(own):
    assert sorted(path.name for path in own.iterdir()) == ['jax_prompt_shapes']
    assert [path.name for path in (own / 'jax_prompt_shapes').iterdir()] == ['1.0.0']


@pytest.mark.parametrize('task', TASKS, ids=lambda task: task.name)
def test_own_builders_end_to_end(own, task):
    if task.name == 'digits':
        pytest.importorskip('sklearn', reason='scikit-learn is not installed')
    source = open_source(task.data, data_dir=str(own))
    assert tuple(len(source.splits[n]) for n in ('train', 'val', 'test')) == task.sizes
    assert len(source.classes) == task.num_classes
    images = set()
    for split in source.splits.values():
        check(split)
        counts = np.bincount(split.labels)
        assert counts.max() - counts.min() <= 0.1 * len(split) / task.num_classes
        images |= {split.read(i).tobytes() for i in range(len(split))}
    assert len(images) >= sum(task.sizes) - 1  # no image twice; two digits are equal
    by_name = open_source(f'tfds:jax_prompt_{task.data}', data_dir=str(own))
    assert by_name.fingerprint == source.fingerprint


def test_shapes_are_what_the_generator_draws(own):
    from jax_prompt.data.builders.shapes import COUNTS, SIZE, draw

    train = open_source('shapes', data_dir=str(own)).splits['train']
    want = {draw(i).tobytes(): i % 6 for i in range(COUNTS['train'])}
    got = {train.read(i).tobytes(): train.labels[i] for i in range(len(train))}
    assert got == want and train.read(0).shape == (SIZE, SIZE, 3)


def test_digits_are_scikit_learns(own):
    datasets = pytest.importorskip('sklearn.datasets', reason='scikit-learn is not installed')
    source = open_source('digits', data_dir=str(own))
    # The mean of each 4x4 block is close to the pixel that it was enlarged from.
    digits = datasets.load_digits()
    known = digits.images.reshape(-1, 64) * (255 / 16)
    for name in ('train', 'test'):
        split = source.splits[name]
        for i in range(0, len(split), 97):
            image = split.read(i)
            assert image.shape == (32, 32, 3) and (image == image[..., :1]).all()
            small = image[..., 0].reshape(8, 4, 8, 4).mean((1, 3)).ravel()
            nearest = np.abs(known - small).sum(1).argmin()
            assert digits.target[nearest] == split.labels[i]


def test_preparing_that_fails_leaves_nothing(tmp_path, monkeypatch):
    from jax_prompt.data.builders import shapes

    def fail(i):
        raise RuntimeError('killed')

    with monkeypatch.context() as patch:
        patch.setattr(shapes, 'draw', fail)
        with pytest.raises(RuntimeError, match='killed'):
            prepare_own('shapes', str(tmp_path))
    assert not [path for path in tmp_path.rglob('*') if path.is_file()]
    with monkeypatch.context() as patch:
        patch.setattr(shapes, 'COUNTS', {'train': 12, 'validation': 6, 'test': 6})
        source = open_source('shapes', data_dir=str(tmp_path))
    assert len(source.splits['train']) == 12


def test_another_process_may_be_first(own, tmp_path, monkeypatch):
    from jax_prompt.data.builders.shapes import JaxPromptShapes

    folder = Path('jax_prompt_shapes', '1.0.0')

    def prepare(self, **options):
        del options
        shutil.copytree(own / folder, Path(self._data_dir_root) / folder)
        shutil.copytree(own / folder, tmp_path / folder)  # the other one

    monkeypatch.setattr(JaxPromptShapes, 'download_and_prepare', prepare)
    assert prepare_own('shapes', str(tmp_path)) == tmp_path / folder
    assert [path.name for path in tmp_path.iterdir()] == ['jax_prompt_shapes']


def test_missing_scikit_learn_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match=r"pip install 'jax-prompt\[quickstart\]'"):
        open_source('digits', data_dir=str(tmp_path))


def test_prepared_data_in_several_shards(make_builder, tmp_path):
    make_builder(tmp_path, 'plain')
    assert len(list((tmp_path / 'small_pets/plain/1.2.0').glob('*train*of-00004'))) == 4
    source = open_source('tfds:small_pets/plain:1.2.0', data_dir=str(tmp_path), val_fraction=0.25)
    assert source.classes == ('cat', 'dog')
    assert {n: len(s) for n, s in source.splits.items()} == {'train': 30, 'val': 10, 'test': 10}
    assert source.splits['val'].where(2) == 'small_pets/plain/1.2.0/train[32]'
    known = {encode(picture(i)): i for i in range(40) if i % 2 == 0}
    seen = set()
    for name in ('train', 'val'):
        split = source.splits[name]
        for i in range(len(split)):
            image = split.read(i)
            assert image.shape == (12, 16, 3) and image.dtype == np.uint8
            if split.labels[i] == 0:  # a PNG: exact
                seen.add(known[encode(image)])
    assert len(seen) == 20
    # Without naming the config: it is the only one there. Test taken from train where asked.
    assert open_source('tfds:small_pets', data_dir=str(tmp_path), val_fraction=0.25).fingerprint
    make_builder(tmp_path, 'odd', shards=1)
    with pytest.raises(ValueError, match=r"configs \['odd', 'plain'\]; name one: tfds:small_pets/"):
        open_source('tfds:small_pets', data_dir=str(tmp_path))
    odd = open_source('tfds:small_pets/odd', data_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r'images .*\n.*small_pets/odd/1\.2\.0/t\w+\[\d+\]: not a'):
        for split in odd.splits.values():
            check(split)


def test_two_image_features_are_named(make_builder, tmp_path):
    make_builder(tmp_path, 'two', shards=1)
    with pytest.raises(ValueError, match=r"image features \['mask', 'photo'\]|\['photo', 'mask'\]"):
        open_source('tfds:small_pets/two', data_dir=str(tmp_path))


def test_tfrecord_is_refused_with_the_fix(own, tmp_path):
    shutil.copytree(own / 'jax_prompt_shapes', tmp_path / 'jax_prompt_shapes')
    path = tmp_path / 'jax_prompt_shapes/1.0.0/dataset_info.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'fileFormat': 'tfrecord'}))
    with pytest.raises(ValueError, match=r"(?s)\['tfrecord'\]; only.*file_format='arr"):
        open_source('tfds:jax_prompt_shapes', data_dir=str(tmp_path))


@pytest.mark.parametrize(
    'spec', ['mnist', 'mnist:3.0.1', 'cifar10/config', 'jax_prompt_shapes:9.0.0']
)
def test_not_prepared_says_where_and_how(own, spec):
    with pytest.raises(
        ValueError, match=r'(?s)not prepared in .*download_and_prepare\(\)'
    ) as error:
        open_source(f'tfds:{spec}', data_dir=str(own))
    assert str(own) in str(error.value) and spec in str(error.value)


@pytest.mark.parametrize('spec', ['', 'a b', 'mnist:3', 'mnist:3.0.*', '../mnist'])
def test_other_forms_are_refused(own, spec):
    with pytest.raises(ValueError, match=r'allowed: tfds:NAME'):
        open_source(f'tfds:{spec}', data_dir=str(own))


def test_truncated_records_name_the_data(own, tmp_path):
    shutil.copytree(own / 'jax_prompt_shapes', tmp_path / 'jax_prompt_shapes')
    (path,) = (tmp_path / 'jax_prompt_shapes/1.0.0').glob('*train*')
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"jax_prompt_shapes/1\.0\.0/train: records can't be read"):
        open_source('shapes', data_dir=str(tmp_path))


def test_tasks():
    assert find_task('digits').num_classes == 10
    with pytest.raises(ValueError, match=r"'digit'; allowed: \['digits', 'shapes', 'count'"):
        find_task('digit')
