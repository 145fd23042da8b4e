"""FGVC, whole sets and subsets of them: published sizes, draws, list files, names."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from small_builders import prepare_small
from small_data import encode, picture, write_class

from jax_prompt.data import fgvc, regular
from jax_prompt.data.draws import few_shot, long_tail
from jax_prompt.data.imagenet100 import SYNSETS
from jax_prompt.data.open import folder_of, open_source
from jax_prompt.data.preflight import split_sizes
from jax_prompt.data.tasks import ALL, find_task
from jax_prompt.runs.config import Input, RunConfig
from jax_prompt.runs.inputs import open_data

# Table S1 of arXiv:2402.02382: classes, train, val, test.
TABLE_S1 = {
    'fgvc/cub': (200, 5394, 600, 5794),
    'fgvc/nabirds': (555, 21536, 2393, 24633),
    'fgvc/oxford_flowers': (102, 1020, 1020, 6149),
    'fgvc/stanford_dogs': (120, 10800, 1200, 8580),
    'fgvc/stanford_cars': (196, 7329, 815, 8041),
}
# Examples of the real builders, from TFDS's catalogue.
STORED = {
    'fgvc/cub': {'train': 5994, 'test': 5794},
    'fgvc/oxford_flowers': {'train': 1020, 'validation': 1020, 'test': 6149},
    'fgvc/stanford_dogs': {'train': 12000, 'test': 8580},
    'fgvc/stanford_cars': {'train': 8144, 'test': 8041},
    'cifar10': {'train': 50000, 'test': 10000},
    'cifar100': {'train': 50000, 'test': 10000},
    'oxford_iiit_pet': {'train': 3680, 'test': 3669},
    'food101': {'train': 75750, 'validation': 25250},
    'imagenet1k': {'train': 1281167, 'validation': 50000, 'test': 100000},
    'inaturalist2018': {'train': 437513, 'validation': 24426, 'test': 149394},
}


def test_rows_are_the_published_table():
    assert {t.name: (t.num_classes, *t.sizes) for t in fgvc.TASKS} == TABLE_S1


@pytest.mark.parametrize('name', STORED)
def test_sizes_come_from_what_is_stored(name):
    task = find_task(name)
    assert split_sizes(task.rule, STORED[name]) == tuple(task.sizes)


def test_names_are_unique_and_aliases_lead_somewhere():
    names = [task.name for task in ALL]
    assert len(set(names)) == len(names)
    for task in ALL:
        kind = task.data.partition(':')[0]
        assert task.rule is not None or kind in ('folder', 'listed') or open_or_name(task.data)


def open_or_name(data: str) -> bool:
    return data in ('digits', 'shapes') or data.startswith('scenes/') or bool(find_task(data))


@pytest.mark.parametrize(
    ('name', 'sizes'),
    [
        ('fewshot8/oxford_iiit_pet', (296, 148, 3669)),
        ('fewshot1/food101', (101, 101, 25250)),
        ('fewshot16/cars', (3136, 784, 8041)),
        ('fewshot16/fgvc/oxford_flowers', (1632, 408, 6149)),
        ('fraction10/fgvc/cub', None),
        ('longtail50/cifar10', None),
    ],
)
def test_subsets_are_tasks(name, sizes):
    assert find_task(name).sizes == sizes and find_task(name).name == name


@pytest.mark.parametrize(
    ('name', 'near'), [('cub', 'fgvc/cub'), ('cifar10_lt10', 'cifar10_lt100'), ('pets', None)]
)
def test_unknown_names_give_the_nearest(name, near):
    with pytest.raises(ValueError, match=f'task is {name!r}; allowed: ') as error:
        find_task(name)
    if near:
        assert f"nearest: ['{near}'" in str(error.value)
    with pytest.raises(ValueError, match='fewshot0'):
        find_task('fewshot0/food101')
    with pytest.raises(ValueError, match='fraction101'):
        open_source('fraction101/food101')


def test_birds_of_ten_per_cent(tmp_path):
    # 200 classes of 3 images: train keeps 90 %, val the rest, each class a part of train.
    prepare_small(
        'caltech_birds2011',
        {'train': 600, 'test': 20},
        tmp_path,
        fill=lambda split, i: {'label': i % 200},
    )
    first, again = (open_source('fgvc/cub', data_dir=str(tmp_path), seed=s) for s in (0, 5))
    assert first.fingerprint == again.fingerprint  # the draw is the task's, not the run's
    assert {n: len(s) for n, s in first.splits.items()} == {'train': 540, 'val': 60, 'test': 20}
    assert len(set(first.splits['train'].labels)) == 200
    places = [
        first.splits[n].where(i) for n in ('train', 'val') for i in range(len(first.splits[n]))
    ]
    assert sorted(places) == sorted(f'caltech_birds2011/0.2.0/train[{i}]' for i in range(600))
    tenth = open_source('fraction10/fgvc/cub', data_dir=str(tmp_path))
    assert len(tenth.splits['train']) == 200  # one of each class at least
    half = open_source('fraction70/fgvc/cub', data_dir=str(tmp_path))
    assert len(half.splits['train']) == 378
    assert np.array_equal(half.splits['val'].labels, first.splits['val'].labels)
    assert np.array_equal(half.splits['test'].labels, first.splits['test'].labels)


def test_a_set_without_val_and_one_of_chosen_classes(tmp_path):
    import tensorflow_datasets as tfds

    real = tfds.builder('imagenet2012', data_dir=tmp_path).info.features['label']
    chosen = [real.str2int(one) for one in SYNSETS]
    assert len(set(chosen)) == 100 and sorted(SYNSETS) == list(SYNSETS)
    others = [i for i in range(1000) if i not in chosen]

    def fill(split, i):  # every other image is of ImageNet-100
        return {'label': chosen[i // 2 % 100] if i % 2 else others[i % 900]}

    folder = prepare_small('imagenet2012', {'train': 800, 'validation': 200}, tmp_path, fill=fill)
    builder = tfds.builder_from_directory(folder)
    source = open_source('imagenet100', data_dir=str(tmp_path))
    assert {n: len(s) for n, s in source.splits.items()} == {'train': 360, 'val': 40, 'test': 100}
    assert source.classes == SYNSETS
    stored = [int(one['label']) for one in builder.as_data_source('validation')]
    kept = [SYNSETS.index(real.int2str(one)) for one in stored if one in chosen]
    assert source.splits['test'].labels.tolist() == kept
    where = source.splits['test'].where(0)
    first = next(i for i, one in enumerate(stored) if one in chosen)
    assert where == f'imagenet2012/5.1.0/validation[{first}]'


def write_birds(root: Path) -> None:
    """Writes NABirds' layout: six images of classes 7, 12 and 30; two of these share a name."""
    names = ['0000-aa', '0001-bb', '0002-cc', '0003-dd', '0004-ee', '0005-ff']
    numbers = [12, 7, 30, 12, 7, 30]
    for i, (name, number) in enumerate(zip(names, numbers, strict=True)):
        folder = root / 'images' / f'{number:04d}'
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f'{name}.png').write_bytes(encode(picture(i)))
    rows = list(zip(names, numbers, strict=True))
    lines = {
        'images.txt': [f'{name} {number:04d}/{name}.png' for name, number in rows],
        'image_class_labels.txt': [f'{name} {number}' for name, number in rows],
        'train_test_split.txt': [f'{name} {int(i < 4)}' for i, name in enumerate(names)],
        'classes.txt': ['0 Birds', '7 Oak (Adult)', '12 Ash Finch', '30 Oak (Adult)'],
    }
    for name, texts in lines.items():
        (root / name).write_text('\n'.join(texts) + '\n')


def test_list_files(tmp_path):
    with pytest.raises(ValueError, match=r'fgvc/nabirds needs .*nabirds, which .*Cornell'):
        open_source('fgvc/nabirds', data_dir=str(tmp_path))
    root = tmp_path / 'nabirds'
    write_birds(root)
    source = open_source('fgvc/nabirds', data_dir=str(tmp_path))
    assert source.classes == ('7 Oak (Adult)', '12 Ash Finch', '30 Oak (Adult)')
    both = {}
    for name in ('train', 'val'):
        split = source.splits[name]
        both |= {Path(split.where(i)).stem: int(split.labels[i]) for i in range(len(split))}
    assert both == {'0000-aa': 1, '0001-bb': 0, '0002-cc': 2, '0003-dd': 1}
    assert len(source.splits['val']) == 1 and source.splits['test'].labels.tolist() == [0, 2]
    assert np.array_equal(source.splits['test'].read(1), picture(5))
    (root / 'images.txt').write_text('0000-aa x.png\n')
    with pytest.raises(ValueError, match='name different images'):
        open_source('fgvc/nabirds', data_dir=str(tmp_path))
    (root / 'classes.txt').unlink()
    with pytest.raises(ValueError, match=r"\['classes.txt'\] are missing"):
        open_source('fgvc/nabirds', data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ('classes', 'ratio', 'total'),
    # Sizes of the long-tailed CIFAR sets of the literature.
    [(10, 100, 12406), (10, 50, 13996), (100, 100, 10847), (100, 50, 12608)],
)
def test_long_tails_have_the_known_sizes(classes, ratio, total):
    labels = np.random.RandomState(0).permutation(np.arange(50000) % classes)
    index = long_tail(labels, ratio, 0)
    counts = np.bincount(labels[index])
    assert len(index) == total == len(set(index))
    assert counts[0] == 50000 // classes and counts[-1] == counts[0] // ratio
    assert (np.diff(counts) <= 0).all()
    assert np.array_equal(index, long_tail(labels, ratio, 0))


def test_few_shots_are_apart():
    labels = np.repeat(np.arange(5), 20)
    for k, val in ((1, 1), (2, 2), (4, 4), (8, 4), (16, 4)):
        train, taken = few_shot(labels, k, 0)
        assert np.bincount(labels[train]).tolist() == [k] * 5
        assert np.bincount(labels[taken]).tolist() == [val] * 5
        assert not set(train) & set(taken)
    with pytest.raises(ValueError, match='class 0 has 20'):
        few_shot(labels, 17, 0)
    with pytest.raises(ValueError, match=r'imbalance ratio is 0\.5'):
        long_tail(labels, 0.5, 0)


def test_a_folder_is_a_task_with_the_same_subsets(tmp_path, monkeypatch):
    for i, name in enumerate(['cat', 'dog', 'owl']):
        write_class(tmp_path / 'pets' / 'train' / name, 20, first=40 * i)
        write_class(tmp_path / 'pets' / 'test' / name, 5, first=40 * i + 20)
    data = f'image_folder:{tmp_path / "pets"}'
    assert open_source(data).fingerprint == open_source(str(tmp_path / 'pets')).fingerprint
    sizes = {}
    for name in ('fewshot2', 'fraction25', 'longtail4'):
        source = open_source(f'{name}/{data}')
        sizes[name] = [len(source.splits[n]) for n in ('train', 'val', 'test')]
        assert len(source.splits['test']) == 15
        for split in source.splits.values():
            for i in range(len(split)):
                code, number = split.labels[i], int(Path(split.where(i)).stem)
                assert number // 40 == code and np.array_equal(split.read(i), picture(number))
    # A fifth of 60 is val, so 48 * 25 % are 12; 20 + 10 + 5 are the long tail, a tenth of it val.
    assert sizes == {'fewshot2': [6, 6, 15], 'fraction25': [12, 12, 15], 'longtail4': [31, 4, 15]}
    draws = [
        open_source(f'fewshot2/{data}', seed=s, draw_seed=d) for s, d in ((0, 0), (1, 0), (0, 1))
    ]
    assert draws[0].fingerprint == draws[1].fingerprint != draws[2].fingerprint
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'dogs').mkdir()
    (tmp_path / 'shapes' / 'round').mkdir(parents=True)
    assert folder_of('shapes') is None  # a run directory of that name is in nobody's way
    (tmp_path / 'shapes' / 'round' / 'a.png').write_bytes(encode(picture(0)))
    with pytest.raises(ValueError, match=r"a task and a folder; name the folder './shapes'"):
        open_source('shapes')
    with pytest.raises(ValueError, match=r"a task and a folder; name the folder './dogs'"):
        open_source('dogs')


def test_a_run_does_not_enlarge_its_subset(tmp_path):
    for i, name in enumerate(['cat', 'dog']):
        write_class(tmp_path / name, 20, first=40 * i)
    config = RunConfig(
        data=f'fewshot2/{tmp_path}', backbone='vit_micro', method='linear', search_lrs=(0.1, 0.2)
    )
    assert config.search and config.refit
    with pytest.raises(ValueError, match='refit=True trains on val too; set refit=False'):
        open_data(config, config.data)
    assert open_data(config, f'fewshot3/{tmp_path}')  # as other data: not trained on
    fixed = dataclasses.replace(config, search=False)  # no search: train alone is trained on
    assert len(open_data(fixed, fixed.data).splits['train']) == 4
    alone = dataclasses.replace(config, refit=False, input=Input(draw_seed=1))
    drawn = open_data(alone, alone.data)
    assert drawn.fingerprint == open_source(alone.data, draw_seed=1).fingerprint
    tail = dataclasses.replace(config, data=f'longtail2/{tmp_path}')
    assert len(open_data(tail, tail.data).splits['train']) > 20


def test_long_tailed_rows_pass_on_the_seed_of_the_draw(tmp_path):
    prepare_small('cifar10', {'train': 1000, 'test': 10}, tmp_path, shards=1)
    sources = [open_source('cifar10_lt50', data_dir=str(tmp_path), draw_seed=s) for s in (0, 1)]
    assert sources[0].fingerprint != sources[1].fingerprint
    for source in sources:
        both = np.concatenate([source.splits[n].labels for n in ('train', 'val')])
        want = [int(100 * 50 ** (-i / 9)) for i in range(10)]
        assert np.bincount(both).tolist() == want
        assert len(source.splits['test']) == 10


def test_flowers_of_five_species_are_cut_by_one_draw(tmp_path):
    assert find_task('flowers5') in regular.TASKS
    for i in range(5):
        write_class(tmp_path / 'flowers5' / f'species{i}', 10, first=20 * i)
    first, again = (open_source('flowers5', data_dir=str(tmp_path), seed=s) for s in (0, 3))
    assert {n: len(s) for n, s in first.splits.items()} == {'train': 35, 'val': 5, 'test': 10}
    assert first.fingerprint == again.fingerprint
