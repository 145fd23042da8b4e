"""Files of a run that a full disk, a power cut or a hand has damaged: named, with a way out."""

import json
import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jax_prompt.report.collect import from_workdir
from jax_prompt.runs import prompts
from jax_prompt.runs.prompts import run_prototypes
from jax_prompt.runs.restore import restore
from jax_prompt.runs.workdir import open_workdir
from jax_prompt.train.log import append_metrics, read_json, read_metrics, rewrite_metrics
from jax_prompt.train.snapshots import find_snapshots, load_snapshot, take_snapshot

TORN = {'empty': b'', 'half': b'{"method": "lin', 'noise': b'\xff\x00\x80', 'list': b'[1]'}
DEEP = b'[' * 10**5
EVERY = pytest.mark.parametrize('how', [*TORN, 'deep'])


def _content(how):
    return TORN.get(how, DEEP)


@EVERY
def test_config_and_result_are_named(make_config, tmp_path, how):
    config = make_config()
    open_workdir(config, tmp_path)
    (tmp_path / 'result.json').write_bytes(_content(how))
    with pytest.raises(ValueError, match=r'result\.json (is damaged|holds no).*: remove it and'):
        open_workdir(config, tmp_path)
    with pytest.raises(ValueError, match=r'result\.json (is damaged|holds no).*: remove it and'):
        restore(tmp_path)
    with pytest.raises(ValueError, match=r'result\.json (is damaged|holds no).*: remove it and'):
        from_workdir(tmp_path)
    (tmp_path / 'config.json').write_bytes(_content(how))
    for read in (lambda: open_workdir(config, tmp_path), lambda: restore(tmp_path)):
        with pytest.raises(ValueError, match=r'config\.json (is damaged|holds no).*: put it back'):
            read()
    (tmp_path / 'chosen.json').write_bytes(_content(how))
    with pytest.raises(ValueError, match=r'chosen\.json (is damaged|holds no).*: remove it and'):
        read_json(tmp_path / 'chosen.json')


def test_a_result_that_lacks_something_is_named(make_config, tmp_path):
    open_workdir(make_config(), tmp_path)
    (tmp_path / 'result.json').write_text('{"method": "linear"}')
    for read in (restore, from_workdir):
        with pytest.raises(ValueError, match=r'result\.json lacks \['):
            read(tmp_path)


def test_a_config_that_means_nothing_is_named(make_config, tmp_path):
    open_workdir(make_config(), tmp_path)
    (tmp_path / 'result.json').write_text('{}')
    values = json.loads((tmp_path / 'config.json').read_text())
    for change in ({'epochs': 'many'}, {'engine': 3}, {'zzz': 1}):
        (tmp_path / 'config.json').write_text(json.dumps({**values, **change}))
        with pytest.raises(ValueError, match=r'config\.json holds no configuration'):
            restore(tmp_path)


def test_a_kill_in_the_first_write_leaves_a_directory_that_is_taken(make_config, tmp_path):
    (tmp_path / 'config.json.machine-0-1-ab.part').write_text('{')
    assert open_workdir(make_config(), tmp_path) is None
    assert (tmp_path / 'config.json').is_file()
    other = tmp_path / 'other'
    other.mkdir()
    for name in ('config.json.machine-0-1-ab.part', 'holiday.jpg'):
        (other / name).touch()
    with pytest.raises(ValueError, match='is not empty and holds no run'):
        open_workdir(make_config(), other)


def _row(epoch):
    return {'kind': 'epoch', 'stage': 'train', 'epoch': epoch}


@pytest.mark.parametrize(
    'line', [b'{"kind": "ep', b'\xff\xfe', b'', b'7', b'{"kind": "epoch"}', DEEP]
)
def test_one_damaged_line_drops_no_other(tmp_path, line, caplog):
    path = tmp_path / 'metrics.jsonl'
    lines = [json.dumps(_row(epoch)).encode() for epoch in range(4)]
    path.write_bytes(b'\n'.join([lines[0], lines[1], line, lines[2], lines[3], b'']))
    assert [row['epoch'] for row in read_metrics(path)] == [0, 1, 2, 3]
    assert 'metrics.jsonl: damaged and left out: line 3' in caplog.text
    rewrite_metrics(path, lambda row: row['epoch'] != 1)
    assert [row['epoch'] for row in read_metrics(path)] == [0, 2, 3]


def test_a_row_after_a_torn_one_begins_a_line(tmp_path, caplog):
    path = tmp_path / 'metrics.jsonl'
    append_metrics(path, _row(0))
    with path.open('ab') as file:
        file.write(b'{"kind": "epo')
    assert [row['epoch'] for row in read_metrics(path)] == [0]
    assert not caplog.text  # a kill cuts the last line short: no damage
    append_metrics(path, _row(1))
    append_metrics(path, _row(2))
    assert [row['epoch'] for row in read_metrics(path)] == [0, 1, 2]


def _snapshot(folder, epoch=1):
    weights = {'head': {'kernel': np.arange(6, dtype=np.float32).reshape(2, 3)}}
    program = SimpleNamespace(steps_per_epoch=2, epochs=3, weights=lambda _: weights)
    take_snapshot(folder, 1, program, SimpleNamespace(step=2 * epoch))
    return folder / 'snapshots' / f'epoch_{epoch:04d}.safetensors', weights


@pytest.mark.parametrize('keep', [0, 5, 100, -1])
def test_a_torn_snapshot_is_named_and_written_again(tmp_path, keep, caplog):
    path, weights = _snapshot(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    with pytest.raises(ValueError, match=r'epoch_0001\.safetensors is not read: .*remove it'):
        load_snapshot(path, weights)
    _snapshot(tmp_path)
    assert path.read_bytes() == whole and 'epoch_0001.safetensors is not read' in caplog.text
    jax.tree.map(np.testing.assert_array_equal, load_snapshot(path, weights), weights)
    before = os.stat(path)
    _snapshot(tmp_path)
    assert os.stat(path).st_ino == before.st_ino  # a whole one is left as it is


def test_snapshots_of_an_earlier_version_are_told_of(tmp_path, caplog):
    (tmp_path / 'snapshots').mkdir()
    np.savez(tmp_path / 'snapshots' / 'epoch_0000.npz', a=np.zeros(2))
    assert find_snapshots(tmp_path) == {}
    assert 'snapshots that an earlier version of jax_prompt wrote' in caplog.text


def test_torn_prototypes_are_built_again(make_config, tmp_path, monkeypatch, caplog):
    made = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    calls = []

    def build(*_):
        calls.append(1)
        return made, {'construction': 'mean'}

    monkeypatch.setattr(prompts, 'prototypes', build)
    monkeypatch.setattr(prompts, 'BackboneTokens', lambda *_: None)
    facts = SimpleNamespace(prompt_layers=range(2), prompt_length=2)
    program = SimpleNamespace(classifier=SimpleNamespace(facts=facts))
    path = tmp_path / 'prototypes.safetensors'

    def run_again():
        got, report = run_prototypes(make_config(), program, None, None, path)
        np.testing.assert_array_equal(got, made)
        assert report == {'construction': 'mean'}

    run_again()
    run_again()
    assert len(calls) == 1
    whole = path.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    for torn in (b'', whole[:-30], bytes(50), flipped):
        path.write_bytes(torn)
        run_again()
        assert path.read_bytes() == whole and 'prototypes.safetensors is ' in caplog.text
        caplog.clear()
    assert len(calls) == 5
