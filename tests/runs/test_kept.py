"""A run's data is what it was: kept lists, what changed, other data, tasks without test images."""

import gzip
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from small_data import encode, picture, write_class, write_pack

from jax_prompt.cli import predict
from jax_prompt.data.kept import changes, describe, read_kept, write_kept
from jax_prompt.data.source import Unreadable
from jax_prompt.runs import run as runs
from jax_prompt.runs.backbone import build_backbone
from jax_prompt.runs.inputs import load_splits, open_data
from jax_prompt.runs.kept import check_kept, check_unchanged, keep, keep_backbone, open_evaluated
from jax_prompt.runs.run import run
from jax_prompt.suite.suite import Benchmark, check_tests


@pytest.fixture
def pets(tmp_path):
    for name, first in (('cat', 0), ('dog', 50)):
        write_class(tmp_path / 'pets' / name, 10, first)
    return tmp_path / 'pets'


@pytest.fixture
def trained(pets, make_config):
    """A config on a folder, what is kept of it, and its result: test is drawn from the folder."""
    config = make_config(data=str(pets), input={'test_fraction': 0.3})
    source = open_data(config, config.data)
    result = {
        'trained_on': 'train+val',
        'data_fingerprint': source.fingerprint,
        'classes': list(source.classes),
        'num_examples': {name: len(split) for name, split in source.splits.items()},
    }
    return config, describe(source), result


def names(split):
    return [split.where(i) for i in range(len(split))]


def test_evaluation_keeps_to_the_images_that_the_run_had(trained, pets, tmp_path):
    config, kept, result = trained
    write_kept(tmp_path / 'split.json.gz', kept)
    assert read_kept(tmp_path / 'split.json.gz') == kept
    before, said = open_evaluated(config, kept, result, 'test', '')
    assert said == {}
    write_class(pets / 'dog', 12, first=80)
    write_class(pets / 'emu', 3)
    after, said = open_evaluated(config, kept, result, 'test', '')
    assert said == {
        'data_changed': 'classes that are new: emu; 15 images are new: dog/080.png, dog/081.png, '
        'dog/082.png and 12 more'
    }
    assert names(after) == names(before) and len(after) == 6
    assert after.labels.tolist() == before.labels.tolist()
    assert np.array_equal(after.read(3), before.read(3))
    (gone, changed) = (pets / kept.files['test'][i][0] for i in (0, 1))
    gone.unlink()
    changed.write_bytes(encode(picture(1), compress_level=0))
    with pytest.raises(ValueError, match=r'2 of the 6 images of test .* are gone or changed: '):
        open_evaluated(config, kept, result, 'test', '')
    _, said = open_evaluated(config, kept, result, 'val', '')
    assert '1 image is gone' in said['data_changed'] and 'of another size' in said['data_changed']
    assert said['seen_in_training']


def test_data_without_files_is_refused_when_it_changed(make_config, tmp_path):
    files = [encode(picture(i)) for i in range(20)]
    config = make_config(data=str(write_pack(tmp_path / 'a.npz', files)))
    kept, result = describe(open_data(config, config.data)), {'trained_on': 'train'}
    assert open_evaluated(config, kept, result, 'test', '')[1] == {}
    write_pack(tmp_path / 'a.npz', [*files, *files[:5]])
    with pytest.raises(ValueError, match=r'a\.npz has changed since the run was trained: .*--data'):
        open_evaluated(config, kept, result, 'test', '')
    assert "'train': 12" in changes(kept, open_data(config, config.data))


def test_a_run_goes_on_with_the_same_data_alone(trained, pets, tmp_path):
    config, kept, result = trained
    workdir = tmp_path / 'run'
    workdir.mkdir()
    keep(open_data(config, config.data), workdir)
    write_kept(workdir / 'split.json.gz', kept)
    write_class(pets / 'dog', 1, first=99)
    source = open_data(config, config.data)
    with pytest.raises(ValueError, match=r'run.* began: 1 image is new: dog/099\.png.*--workdir'):
        check_unchanged(config, workdir, result)
    with pytest.raises(ValueError, match='1 image is new'):
        check_kept(config, workdir)
    check_kept(config, tmp_path)  # keeps nothing
    keep(source, workdir)  # nothing was trained: the new data is taken
    assert read_kept(workdir / 'split.json.gz') == describe(source)
    (workdir / 'metrics.jsonl').write_text('{}\n')
    write_kept(workdir / 'split.json.gz', kept)
    with pytest.raises(ValueError, match='has changed since the run'):
        keep(source, workdir)
    (workdir / 'split.json.gz').write_bytes(gzip.compress(b'{"files": 3}'))
    with pytest.raises(ValueError, match=r'split\.json\.gz: damaged'):
        keep(source, workdir)


def test_a_finished_run_on_changed_data_is_not_nothing_to_do(trained, tmp_path, monkeypatch, pets):
    config, _, result = trained
    monkeypatch.setattr(runs, 'open_workdir', lambda *_: result)
    assert run(config, tmp_path / 'run', quiet=True) == result
    (pets / 'cat' / '000.png').unlink()
    with pytest.raises(ValueError, match='has changed since the run'):
        run(config, tmp_path / 'run', quiet=True)


def test_a_folder_of_classes_is_one_set(trained, pets, tmp_path):
    config, kept, result = trained
    write_class(tmp_path / 'new' / 'dog', 3)
    found, said = open_evaluated(config, kept, result, 'test', str(tmp_path / 'new'))
    assert found.labels.tolist() == [1, 1, 1] and said == {'data': str(tmp_path / 'new')}
    # The run's own folder by another name is no new data: it holds what was trained on.
    own, said = open_evaluated(config, kept, result, 'test', f'{pets}/../pets')
    assert len(own) == 6 and said == {}
    write_class(tmp_path / 'new' / 'emu', 3)
    with pytest.raises(ValueError, match=r"has the classes 'emu'; this run knows 'cat', 'dog'"):
        open_evaluated(config, kept, result, 'test', str(tmp_path / 'new'))
    write_class(tmp_path / 'parts' / 'val' / 'cat', 3)
    write_class(tmp_path / 'parts' / 'test_set' / 'dog', 2)
    found, _ = open_evaluated(config, kept, result, 'test', str(tmp_path / 'parts'))
    assert found.labels.tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"no split 'train'; it has \['test', 'val'\]"):
        open_evaluated(config, kept, result, 'train', str(tmp_path / 'parts'))


def test_other_packs_are_read_by_the_names_of_their_classes(trained, tmp_path):
    config, kept, result = trained
    files = [encode(picture(i)) for i in range(20)]
    pack = write_pack(tmp_path / 'b.npz', files, classes=np.array(['dog', 'cat']))
    found, _ = open_evaluated(config, kept, result, 'test', str(pack))
    assert found.labels.tolist() == [1, 0, 1, 0]


def test_draws_belong_to_the_data_not_to_the_seed(pets, make_config):
    prints = {
        open_data(config, config.data).fingerprint
        for config in (
            *(
                make_config(data=str(pets), seed=seed, input={'test_fraction': 0.3})
                for seed in (0, 5)
            ),
            make_config(data=str(pets), input={'test_fraction': 0.3, 'draw_seed': 1}),
        )
    }
    assert len(prints) == 2


def test_a_task_without_test_images_is_refused_first(pets, make_config):
    config = make_config(data=str(pets))
    with pytest.raises(ValueError, match=r"pets'\] have no test images.*input\.test_fraction"):
        check_tests(Benchmark('mine', ('vtab/dtd', str(pets)), config))
    drawn = make_config(data=str(pets), input={'test_fraction': 0.3})
    check_tests(Benchmark('mine', (str(pets),), drawn))


def test_unreadable_images_of_all_splits_are_one_message(pets, make_config):
    for name, first in (('cat', 0), ('dog', 50)):
        for split in ('train', 'test'):
            write_class(pets.parent / 'parts' / split / name, 4, first)
    for split in ('train', 'test'):
        (pets.parent / 'parts' / split / 'cat' / '001.png').write_bytes(b'bad')
    config = make_config(data=str(pets.parent / 'parts'))
    with pytest.raises(ValueError, match=r"1 of the 8 images of split 'test'") as error:
        load_splits(config, open_data(config, config.data).splits, 8)
    text = str(error.value)
    assert 'train/cat/001.png' in text and 'test/cat/001.png' in text
    assert "split 'train'" in text or "split 'val'" in text


def test_images_in_two_splits_are_counted(make_config, tmp_path, caplog):
    for name, first in (('cat', 0), ('dog', 50)):
        write_class(tmp_path / 'train' / name, 5, first)
        write_class(tmp_path / 'test' / name, 2, first)
        write_class(tmp_path / 'val' / name, 2, first + 20)
    (tmp_path / 'test' / 'cat' / '001.png').write_bytes(encode(picture(30)))
    config = make_config(data=str(tmp_path))
    load_splits(config, open_data(config, config.data).splits, 12)
    assert '3 of the 4 images of test are in train too' in caplog.text
    assert 'val' not in caplog.text


def test_predict_gives_a_bad_image_a_row_and_goes_on(pets, monkeypatch, capsys):
    bad = pets / 'cat' / '003.png'
    bad.write_bytes(b'bad')
    for name in ('x.jfif', 'y.AVIF', 'z.pbm', '._001.png', 'notes.txt'):
        (pets / 'cat' / name).write_bytes(encode(picture(3)))

    def read(paths):
        wrong = {i: f'{path}: not readable' for i, path in enumerate(paths) if path == bad}
        if wrong:
            raise Unreadable('predict', len(paths), wrong)
        return np.tile(np.float32([0.25, 0.75]), (len(paths), 1))

    monkeypatch.setattr(
        predict,
        'open_tuned',
        lambda *_: SimpleNamespace(classes=['cat', 'd\x1bog'], predict=read),
    )
    for kind in ('jsonl', 'table'):
        with pytest.raises(ValueError, match=r'^1 of 23 images: .*003\.png'):
            predict.main([str(pets), '--workdir', 'run', '--top', '1', '--format', kind])
        out, err = capsys.readouterr()
        lines = out.splitlines()
        assert len(lines) == 23
        assert 'passed over 2' in err and 'notes.txt' in err
        failed = [line for line in lines if 'not readable' in line]
        assert len(failed) == 1 and '003.png' in failed[0] and '\x1b' not in out
        if kind == 'jsonl':
            assert sum('error' in json.loads(line) for line in lines) == 1


def test_a_run_goes_on_with_the_same_weights_alone(make_config, tmp_path):
    backbone = build_backbone(make_config())
    keep_backbone(backbone, 'a', tmp_path)
    rounded = replace(backbone, content='0' * 64)
    keep_backbone(rounded, 'b', tmp_path)  # nothing was trained: the new weights are taken
    (tmp_path / 'metrics.jsonl').write_text('{}\n')
    keep_backbone(rounded, 'b', tmp_path)
    with pytest.raises(ValueError, match=r'a holds the weights of vit_micro.* in other .*Put'):
        keep_backbone(backbone, 'a', tmp_path)
    (tmp_path / 'backbone.json').write_text('{')
    with pytest.raises(ValueError, match=r'backbone\.json is damaged .*or remove it'):
        keep_backbone(rounded, 'b', tmp_path)
    (tmp_path / 'backbone.json').unlink()
    keep_backbone(rounded, 'b', tmp_path)  # as a run of an earlier version, which kept none
    assert '"content": "000' in (tmp_path / 'backbone.json').read_text()


def test_a_name_that_is_too_long_for_a_file_is_no_data(make_config):
    with pytest.raises(ValueError, match='no such file, folder or task'):
        open_data(make_config(), 'x' * 300)
