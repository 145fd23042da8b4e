"""A run directory: free until something trains in it, one process at a time, absolute paths."""

import json
import os
from pathlib import Path

import pytest

from jax_prompt.runs.config import resolve
from jax_prompt.runs.paths import absolute, absolute_data
from jax_prompt.runs.workdir import hold, open_workdir


@pytest.fixture
def config(make_config):
    return make_config(method='linear')


def _saved(folder):
    return json.loads((folder / 'config.json').read_text())


def test_a_directory_in_which_nothing_trained_is_free(make_config, config, tmp_path):
    run = tmp_path / 'run'
    assert open_workdir(make_config(method='linear', weights='/nowhere'), run) is None
    for name in ('prototypes_p_2.safetensors', 'config.json.5f.part', 'metrics.jsonl'):
        (run / name).touch()
    (run / 'checkpoints' / 'snapshots').mkdir(parents=True)
    (run / 'search').mkdir()
    (run / 'search' / 'plan.json').write_text('{}')
    assert open_workdir(config, run) is None
    assert _saved(run)['weights'] == config.weights
    assert os.listdir(run) == ['config.json']
    (run / 'config.json').write_text('{"da')
    assert open_workdir(config, run) is None
    assert _saved(run)['method'] == 'linear'


@pytest.mark.parametrize(
    'trained', ['checkpoints/12', 'search/lr_0.01/3', 'search/lr_0.1/result.json', 'metrics.jsonl']
)
def test_a_directory_with_a_training_is_not(make_config, config, tmp_path, trained):
    open_workdir(config, tmp_path)
    (tmp_path / trained).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / trained).write_text('{}')
    assert open_workdir(config, tmp_path) is None
    with pytest.raises(ValueError, match=r'epochs: 2 there, 3 asked'):
        open_workdir(make_config(method='linear', epochs=3), tmp_path)
    assert (tmp_path / trained).exists()


def test_what_is_not_a_runs_is_never_touched(config, tmp_path):
    (tmp_path / 'thesis.txt').write_text('mine')
    with pytest.raises(ValueError, match=r'holds no run \(thesis\.txt\)'):
        open_workdir(config, tmp_path)
    assert os.listdir(tmp_path) == ['thesis.txt']


def test_a_finished_run_may_differ_in_what_changes_no_result(make_config, config, tmp_path, pack):
    open_workdir(config, tmp_path)
    engine = {'num_devices': 1, 'checkpoint_seconds': 0.0, 'eval_batch_size': 5}
    other = make_config(method='linear', engine=engine)
    (tmp_path / 'metrics.jsonl').write_text('{}')
    with pytest.raises(ValueError, match='eval_batch_size: 8 there, 5 asked'):
        open_workdir(other, tmp_path)
    fingerprint = _fingerprint(config)
    done = {'data_fingerprint': fingerprint, 'weights': None}
    (tmp_path / 'result.json').write_text(json.dumps(done))
    assert open_workdir(other, tmp_path) == done
    with pytest.raises(ValueError, match='seed: 0 there, 1 asked'):
        open_workdir(make_config(method='linear', seed=1), tmp_path)
    moved = tmp_path.parent / 'moved.npz'
    moved.write_bytes(pack.read_bytes())
    assert open_workdir(make_config(method='linear', data=str(moved)), tmp_path) == done
    done['data_fingerprint'] = '0'
    (tmp_path / 'result.json').write_text(json.dumps(done))
    with pytest.raises(ValueError, match=f'data: fingerprint 0 there, {fingerprint} asked'):
        open_workdir(make_config(method='linear', data=str(moved)), tmp_path)


def _fingerprint(config):
    from jax_prompt.runs.inputs import open_data

    return open_data(config, config.data).fingerprint


def test_one_process_at_a_time(tmp_path):
    run = tmp_path / 'run'
    with hold(run):
        assert len(os.listdir(run)) == 1
        with (
            pytest.raises(ValueError, match=f'is in use: process {os.getpid()} of .*last sign'),
            hold(run),
        ):
            pass
    assert os.listdir(run) == []
    with hold(run):
        os.rename(next((run / 'held').iterdir()), run / 'held' / 'run@elsewhere-0a0b0c0d-1-2')
        with pytest.raises(ValueError, match='process 1 of elsewhere'), hold(run):
            pass
        beat = run / 'held' / 'run@elsewhere-0a0b0c0d-1-2' / 'heartbeat'
        os.utime(beat, (0, 0))  # silent for long
        with hold(run):
            assert not beat.exists()


def test_a_finished_run_and_a_unit_of_a_benchmark_are_not_held(tmp_path):
    (tmp_path / 'result.json').write_text('{}')
    for left in ('held', 'held/run@elsewhere-0a0b0c0d-1-2'):  # a kill while it let go
        (tmp_path / left).mkdir(parents=True)
        if left != 'held':
            (tmp_path / left / 'heartbeat').touch()
            with hold(tmp_path):
                assert (tmp_path / left / 'heartbeat').exists()  # it may still be at work
            os.utime(tmp_path / left / 'heartbeat', (0, 0))
        with hold(tmp_path):
            assert os.listdir(tmp_path) == ['result.json']
    with hold(tmp_path):
        assert os.listdir(tmp_path) == ['result.json']
    unit = tmp_path / f'run@host-0a-{os.getpid()}-ff'
    unit.mkdir()
    (unit / 'heartbeat').touch()
    with hold(unit):
        assert os.listdir(unit) == ['heartbeat']


def test_paths_are_saved_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', '/users/me')
    Path('set').mkdir()
    here = str(tmp_path)
    for data, made in {
        'set': f'{here}/set',
        'set/': f'{here}/set',
        './later.npz': f'{here}/later.npz',
        '~/set': '/users/me/set',
        'image_folder:set': f'image_folder:{here}/set',
        'fewshot8/set': f'fewshot8/{here}/set',
        'vtab/dtd': 'vtab/dtd',
        'scenes/count': 'scenes/count',
        'digits': 'digits',
        'tfds:mnist': 'tfds:mnist',
    }.items():
        assert absolute_data(data) == made
    run = {'data': 'set', 'weights': '~/a.npz', 'input': {'data_dir': 'd', 'workers': 2}}
    assert absolute(run) == {
        'data': f'{here}/set',
        'weights': '/users/me/a.npz',
        'input': {'data_dir': f'{here}/d', 'workers': 2},
    }
    config = resolve({'data': 'set', 'backbone': 'vit_micro', 'method': 'linear', 'search': False})
    open_workdir(config, tmp_path / 'run')
    assert _saved(tmp_path / 'run')['data'] == f'{here}/set'


@pytest.mark.parametrize('folder', ['search', 'checkpoints'])
def test_folders_of_others_with_a_runs_names_are_kept(config, tmp_path, folder):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / 'mine.py').write_text('')
    with pytest.raises(ValueError, match=f'holds no run \\({folder}\\)'):
        open_workdir(config, tmp_path)
    (tmp_path / 'config.json').write_text('{"architectures": ["ViTModel"]}')
    with pytest.raises(ValueError, match='holds no run'):
        open_workdir(config, tmp_path)
    assert (tmp_path / folder / 'mine.py').exists()


def test_a_file_is_no_run_directory(tmp_path):
    (tmp_path / 'file').touch()
    with (
        pytest.raises(ValueError, match='file is a file; --workdir is the folder'),
        hold(tmp_path / 'file'),
    ):
        pass
