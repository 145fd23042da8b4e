"""VTAB-1k: rows against the published table, label and split rules on builders of real features."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_builders import features_of_task, prepare_small

from jax_prompt.data import label_cache, labels, vtab
from jax_prompt.data.open import open_source
from jax_prompt.data.preflight import split_sizes
from jax_prompt.data.ruled import open_ruled
from jax_prompt.data.task import Part
from jax_prompt.data.transforms import resize_image

# Table S1 of arXiv:2402.02382, in its order: classes and test images.
TABLE_S1 = {
    'caltech101': (102, 6084),
    'cifar100': (100, 10000),
    'dtd': (47, 1880),
    'oxford_flowers102': (102, 6149),
    'oxford_iiit_pet': (37, 3669),
    'svhn_cropped': (10, 26032),
    'sun397': (397, 21750),
    'patch_camelyon': (2, 32768),
    'eurosat': (10, 5400),
    'resisc45': (45, 6300),
    'diabetic_retinopathy': (5, 42670),
    'clevr_count': (8, 15000),
    'clevr_distance': (6, 15000),
    'dmlab': (6, 22735),
    'kitti_distance': (4, 711),
    'dsprites_location': (16, 73728),
    'dsprites_orientation': (16, 73728),
    'smallnorb_azimuth': (18, 12150),
    'smallnorb_elevation': (9, 12150),
}

# Examples of the real builders, from TFDS's catalogue, and where val200 and test lie in them.
STORED = {
    'caltech101': ({'train': 3060, 'test': 6084}, 'train[2754:2954]', 'test'),
    'cifar100': ({'train': 50000, 'test': 10000}, 'train[45000:45200]', 'test'),
    'dtd': ({'train': 1880, 'validation': 1880, 'test': 1880}, 'validation[:200]', 'test'),
    'oxford_flowers102': (
        {'train': 1020, 'validation': 1020, 'test': 6149},
        'validation[:200]',
        'test',
    ),
    'oxford_iiit_pet': ({'train': 3680, 'test': 3669}, 'train[2944:3144]', 'test'),
    'svhn_cropped': ({'train': 73257, 'test': 26032}, 'train[65931:66131]', 'test'),
    'sun397': ({'train': 76128, 'validation': 10875, 'test': 21750}, 'validation[:200]', 'test'),
    'patch_camelyon': (
        {'train': 262144, 'validation': 32768, 'test': 32768},
        'validation[:200]',
        'test',
    ),
    'eurosat': ({'train': 27000}, 'train[16200:16400]', 'train[21600:]'),
    'resisc45': ({'train': 31500}, 'train[18900:19100]', 'train[25200:]'),
    'diabetic_retinopathy': (
        {'train': 35126, 'validation': 10906, 'test': 42670},
        'validation[:200]',
        'test',
    ),
    'clevr': (
        {'train': 70000, 'validation': 15000, 'test': 15000},
        'train[63000:63200]',
        'validation',
    ),
    'dmlab': ({'train': 65550, 'validation': 22628, 'test': 22735}, 'validation[:200]', 'test'),
    'kitti': ({'train': 6347, 'validation': 423, 'test': 711}, 'validation[:200]', 'test'),
    'dsprites': ({'train': 737280}, 'train[589824:590024]', 'train[663552:]'),
    'smallnorb': ({'train': 24300, 'test': 24300}, 'test[:200]', 'test[50%:]'),
}
SMALL = {'train': 60, 'validation': 20, 'test': 20}  # a hundredth, roughly
ROWS = {task.name.removeprefix('vtab/'): task for task in vtab.TASKS}


def stored_of(name: str):
    return STORED[name if name in STORED else name.split('_')[0]]


def test_rows_are_the_published_table():
    assert {name: (t.num_classes, t.sizes[2]) for name, t in ROWS.items()} == TABLE_S1
    assert list(ROWS) == list(TABLE_S1)
    assert all(task.sizes[:2] == (800, 200) and task.metric == 'top1' for task in vtab.TASKS)
    groups = [task.group for task in vtab.TASKS]
    assert [groups.count(g) for g in ('Natural', 'Specialized', 'Structured')] == [7, 4, 8]


@pytest.mark.parametrize('name', TABLE_S1)
def test_split_rules_on_the_real_sizes(name):
    tfds = pytest.importorskip('tensorflow_datasets')
    counts, val, test = stored_of(name)
    task = ROWS[name]
    assert split_sizes(task.rule, counts) == (800, 200, TABLE_S1[name][1])
    # The same examples as TFDS's own split API gives.
    infos = [
        tfds.core.SplitInfo(
            name=one,
            shard_lengths=[n],
            num_bytes=0,
            filename_template=tfds.core.ShardedFileTemplate(
                dataset_name='x', data_dir=Path('x'), filetype_suffix='array_record', split=one
            ),
        )
        for one, n in counts.items()
    ]
    splits = tfds.core.splits.SplitDict(infos)
    for part, wanted in (('train', 'train[:800]'), ('val', val), ('test', test)):
        (one,) = task.rule.parts()[part]
        span = one.span(counts)
        (file,) = splits[wanted].file_instructions
        length = counts[one.split]
        take = length - file.skip if file.take in (-1, None) else file.take
        assert wanted.startswith(one.split)
        assert (span.start, len(span)) == (file.skip, take)


def expected_label(name: str, example: dict) -> int:
    """Computes the class in another way than the rules do: comparisons counted, not searched."""
    if name == 'clevr_count':
        return len(example['objects']['pixel_coords']) - 3
    if name == 'clevr_distance':
        nearest = min(float(place[2]) for place in example['objects']['pixel_coords'])
        return sum(nearest > bound for bound in (8, 8.5, 9, 9.5, 10))
    if name == 'kitti_distance':
        pairs = zip(example['objects']['type'], example['objects']['location'], strict=True)
        depths = [float(place[2]) for kind, place in pairs if int(kind) in (0, 1, 2)]
        return sum(min(depths) > bound for bound in (8, 20)) if depths else 3
    if name == 'dsprites_location':
        return example['label_x_position'] // 2
    if name == 'dsprites_orientation':
        return example['label_orientation'] * 2 // 5
    if name.startswith('smallnorb'):
        return example['label_' + name.split('_')[1]]
    return example['label']


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """Returns a function that prepares a task's small builder once, and gives TFDS's own reader."""
    pytest.importorskip('tensorflow_datasets')
    import tensorflow_datasets as tfds

    root, done = tmp_path_factory.mktemp('vtab'), {}

    def of(task):
        builder = task.data.removeprefix('tfds:')
        if builder not in done:
            stored = stored_of(task.name.removeprefix('vtab/'))[0]
            counts = {split: SMALL[split] for split in stored}
            title = builder.split('/')[0]
            done[builder] = prepare_small(builder, counts, root, fill=features_of_task(title))
        return root, tfds.builder_from_directory(done[builder])

    return of


def shrunk(task):
    """Returns a task that takes 8 and 2 images where the real one takes 800 and 200."""

    def less(parts):
        return tuple(
            replace(part, count=part.count // 100) if part.count else part for part in parts
        )

    rule = replace(task.rule, train=less(task.rule.train), val=less(task.rule.val))
    return replace(task, rule=rule)


@pytest.mark.parametrize('name', TABLE_S1)
def test_labels_images_and_order_on_the_real_features(name, prepared):
    import tensorflow_datasets as tfds

    task = ROWS[name]
    root, builder = prepared(task)
    source = open_ruled(shrunk(task), str(root))
    assert len(source.classes) == task.num_classes
    percent = {'caltech101': 90, 'cifar100': 90, 'svhn_cropped': 90, 'clevr': 90}
    percent |= {'oxford_iiit_pet': 80, 'dsprites': 80, 'eurosat': 60, 'resisc45': 60}
    short = name if name in STORED else name.split('_')[0]
    if short in percent:
        first = percent[short] * SMALL['train'] // 100
        val = f'train[{first}:{first + 2}]'
    else:
        val = 'test[:2]' if short == 'smallnorb' else 'validation[:2]'
    late = {'eurosat': 'train[80%:]', 'resisc45': 'train[80%:]', 'dsprites': 'train[90%:]'}
    late |= {'clevr': 'validation', 'smallnorb': 'test[50%:]'}
    wanted = {'train': 'train[:8]', 'val': val, 'test': late.get(short, 'test')}
    skip = {
        key: tfds.decode.SkipDecoding()
        for key, one in builder.info.features.items()
        if isinstance(one, tfds.features.Image)
    }
    for part, which in wanted.items():
        split, data = source.splits[part], builder.as_data_source(which, decoders=skip)
        assert len(split) == len(data)
        assert split.labels.tolist() == [expected_label(name, data[i]) for i in range(len(data))]
        for i in range(len(data)):
            with Image.open(io.BytesIO(data[i]['image'])) as image:
                pixels = np.asarray(image.convert('RGB'))
            factor = 255 if short == 'dsprites' else 1
            assert np.array_equal(split.read(i), pixels * np.uint8(factor))
    labelled = np.concatenate([one.labels for one in source.splits.values()])
    assert len(set(labelled)) > 1  # labels tell examples apart, so that order shows


def test_a_run_opens_the_task_by_name(tmp_path):
    pytest.importorskip('tensorflow_datasets')

    prepare_small('dtd', {'train': 810, 'validation': 205, 'test': 7}, tmp_path)
    source = open_source('vtab/dtd', data_dir=str(tmp_path), seed=3)
    assert {n: len(s) for n, s in source.splits.items()} == {'train': 800, 'val': 200, 'test': 7}
    assert source.name == 'vtab/dtd'
    assert source.splits['val'].where(199) == 'dtd/3.0.1/validation[199]'
    assert source.fingerprint == open_source('vtab/dtd', data_dir=str(tmp_path)).fingerprint
    with pytest.raises(ValueError, match=r'sun397/tfds is not prepared in .*sun397/tfds'):
        open_source('vtab/sun397', data_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"no such file, folder or task.*nearest tasks: \['vtab/d"):
        open_source('vtab/dtdd', data_dir=str(tmp_path))
    prepare_small('oxford_flowers102', {'train': 30, 'validation': 205, 'test': 7}, tmp_path)
    with pytest.raises(ValueError, match=r"'train' has 30 examples; the task takes 800"):
        open_source('vtab/oxford_flowers102', data_dir=str(tmp_path))


def test_labels_of_large_sets_are_kept(tmp_path, monkeypatch):
    pytest.importorskip('tensorflow_datasets')
    folder = prepare_small('dtd', {'train': 40, 'validation': 9, 'test': 7}, tmp_path)
    task, kept = shrunk(ROWS['dtd']), folder / 'jax_prompt_labels'
    first = open_ruled(task, str(tmp_path))
    assert not kept.exists()
    monkeypatch.setattr(label_cache, 'LEAST', 5)  # train's 8 and test's 7, not val's 2
    for _ in range(2):
        assert open_ruled(task, str(tmp_path)).fingerprint == first.fingerprint
    files = sorted(kept.iterdir())
    assert len(files) == 2
    for file in files:
        np.savez(file, labels=label_cache.read_labels(file)[::-1])  # what is kept is what is used
    used = open_ruled(task, str(tmp_path)).splits['train'].labels
    assert used.tolist() == first.splits['train'].labels[::-1].tolist()
    flipped = bytearray(files[0].read_bytes())
    flipped[flipped.index(b'\n', flipped.index(b'NUMPY')) + 5] ^= 1  # a bit of a label
    files[0].write_bytes(flipped)
    with pytest.raises(ValueError, match='checksum'):
        label_cache.read_labels(files[0])
    files[1].unlink()
    assert open_ruled(task, str(tmp_path)).fingerprint == first.fingerprint
    assert len(list(kept.iterdir())) == 2
    shutil.rmtree(kept)
    kept.write_text('in the way')  # as a folder that can't be written
    assert open_ruled(task, str(tmp_path)).fingerprint == first.fingerprint


def test_bounds_belong_to_the_class_below():
    def clevr(*depths):
        places = [np.array([0, 0, z], np.float32) for z in depths]
        return labels.nearest_object().read({'objects': {'pixel_coords': places}})

    assert [clevr(z) for z in (7.99, 8.0, 8.01, 8.5, 8.51, 9.5, 9.75, 10.0, 10.01, 99.0)] == [
        *(0, 0, 1, 1, 2, 3, 4, 4, 5, 5)
    ]
    assert clevr(12.0, 9.2, 10.5) == 3

    def kitti(*objects):
        kinds, places = [k for k, _ in objects], [np.array([0, 0, z]) for _, z in objects]
        read = labels.nearest_vehicle().read
        return read({'objects': {'type': kinds, 'location': places}})

    assert [kitti((0, z)) for z in (-3.0, 8.0, 8.5, 20.0, 20.5)] == [0, 0, 1, 1, 2]
    assert kitti() == kitti((3, 5.0)) == kitti((7, 1.0), (4, 2.0)) == 3  # no car, van or truck
    assert kitti((3, 5.0), (2, 15.0), (1, 30.0)) == 1
    with pytest.raises(ValueError, match=r'-1\.0 lies below all'):
        labels.bin_of(-1.0, labels.OBJECT_BOUNDS)


def test_groups_of_dsprites():
    turned = labels.grouped('o', 40, 16).read
    want = [math * 2 // 5 for math in range(40)]
    assert [turned({'o': one}) for one in range(40)] == want
    assert np.bincount(want).tolist() == [3, 2] * 8
    across = labels.grouped('x', 32, 16).read
    assert [across({'x': one}) for one in range(32)] == [one // 2 for one in range(32)]


def test_a_part_is_refused_where_it_is_not_stored():
    with pytest.raises(ValueError, match=r"no split 'val'; there are \['train'\]"):
        Part('val').span({'train': 3})
    assert Part('train', 1, 99).span({'train': 150}) == range(1, 148)


@pytest.mark.parametrize('case', ['down', 'up', 'wide', 'same'])
def test_resizing_is_tensorflows(case):
    # Made by tf.image.resize of TensorFlow 2.21, float32; stored images are rounded to uint8.
    with np.load(Path(__file__).with_name('tensorflow_golden.npz')) as golden:
        image, want = golden[f'{case}_image'], golden[f'{case}_resized']
    got = resize_image(image, len(want), vtab.VIEW.resize)
    assert np.abs(got - want).max() <= 0.5 + 1e-3
    assert np.mean(got != np.rint(want)) < 1e-3  # but for ties
