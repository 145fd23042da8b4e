"""The table of results: rows go around, survive kills, and many writers."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jax_prompt.report import rows
from jax_prompt.report.collect import from_result, from_workdir
from jax_prompt.report.rows import Row

ROOT = Path(__file__).resolve().parents[2]
ROW = Row(
    task='dtd',
    method='vpt_deep',
    backbone='vit_b16_224',
    seed=42,
    benchmark='vtab',
    data='d1',
    options={'dropout_rate': 0.1},
    weights={'source': 'ViT-B_16.npz', 'sha256': 'ab' * 32, 'mean': (0.5, 0.5, 0.5)},
    hyperparameters={'epochs': 100, 'search_lrs': (1.0, 0.1)},
    chosen={'lr': 0.1},
    accuracy=0.651,
    accuracy_best_val=0.66,
    num_trainable=128_256,
    num_trainable_head=36_096,
    seconds=12.5,
    images_per_second=310.0,
    peak_memory_mb=1200.0,
    versions={'jax': '0.10.2'},
    machine={'device': 'cpu'},
    finished='2024-05-01T00:00:00+00:00',
)


def test_row_goes_around_whole():
    assert Row.from_json(ROW.to_json()) == ROW
    assert '\n' not in replace(ROW, task='a\nb').to_json()
    assert ROW.label == 'vpt_deep(dropout_rate=0.1)'


def test_identity_is_what_was_asked_not_what_came_out():
    same = replace(ROW, accuracy=0.1, seconds=1.0, finished='2025', versions={}, chosen={'lr': 1.0})
    assert same.run_id == ROW.run_id
    for change in (
        *({'seed': 44}, {'method': 'linear'}, {'options': {}}, {'data': 'd2'}, {'weights': {}}),
        *({'hyperparameters': {'epochs': 10}}, {'task': 'eurosat'}, {'trained_on': 'train'}),
    ):
        assert replace(ROW, **change).run_id != ROW.run_id, change


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'accuracy': 65.1}, 'fraction'),
        ({'accuracy': float('nan')}, 'fraction'),
        ({'accuracy': None}, 'done has an accuracy'),
        ({'status': 'failed'}, 'failed one has none'),
        ({'status': 'failed', 'accuracy': None}, 'has a reason'),
        ({'reason': 'x'}, 'has a reason'),
        ({'status': 'ok'}, 'allowed'),
        ({'split': 'val'}, 'train\\+val'),
        ({'seconds': float('inf')}, 'finite'),
        ({'task': ''}, 'needs a task'),
        ({'hyperparameters': {'lr': float('nan')}}, 'JSON'),
    ],
)
def test_impossible_rows_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(ROW, **change)


def test_append_is_idempotent_and_read_returns_the_union(tmp_path):
    other = replace(ROW, seed=44)
    first = rows.append(tmp_path, ROW)
    assert rows.append(tmp_path, ROW) == first
    rows.append(tmp_path, other)
    table = rows.read(tmp_path)
    assert sorted(row.seed for row in table.rows) == [42, 44]
    assert ROW in table.rows and other in table.rows
    assert (table.superseded, table.problems) == ((), ())


def test_runs_told_twice(tmp_path):
    failed = replace(ROW, status='failed', reason='killed', accuracy=None, finished='2030')
    later = replace(ROW, accuracy=0.5, finished='2025-01-01T00:00:00+00:00')
    for row in (failed, ROW, later):
        rows.append(tmp_path, row)
    table = rows.read(tmp_path)
    assert table.rows == (later,)  # done before failed; then the last, though it is the worse one
    assert sorted(row.status for row in table.superseded) == ['done', 'failed']
    only = tmp_path / 'only'
    rows.append(only, failed)
    assert rows.read(only).rows == (failed,)


def test_a_failure_without_data_gives_way_to_the_run_that_had_it():
    failed = replace(ROW, status='failed', reason='data missing', accuracy=None, data='')
    assert rows.latest([failed, ROW]) == [ROW]
    other = replace(failed, seed=44)
    assert rows.latest([other, ROW]) == [other, ROW]
    another_data = replace(failed, data='d2')
    assert rows.latest([another_data, ROW]) == [another_data, ROW]


def test_tables_merge_by_copying_and_by_export(tmp_path):
    a, b = tmp_path / 'a', tmp_path / 'b'
    rows.append(a, ROW)
    many = [replace(ROW, seed=seed) for seed in range(3)]
    b.mkdir()
    rows.export(b / 'from_elsewhere.jsonl', many)
    for path in a.iterdir():
        (b / path.name).write_bytes(path.read_bytes())
    assert sorted(row.seed for row in rows.read(b).rows) == [0, 1, 2, 42]


def test_torn_and_foreign_lines_are_named(tmp_path):
    whole = [replace(ROW, seed=seed).to_json() + '\n' for seed in range(3)]
    (tmp_path / 'torn.jsonl').write_text(''.join(whole)[:-40])
    (tmp_path / 'foreign.json').write_text('{"task": "dtd", "colour": 1}\n[1]\n')
    (tmp_path / 'bytes.json').write_bytes(b'\xff\xfe\n')
    (tmp_path / 'notes.txt').write_text('not a row')
    table = rows.read(tmp_path)
    assert sorted(row.seed for row in table.rows) == [0, 1]
    problems = '\n'.join(table.problems)
    assert len(table.problems) == 4
    assert 'torn.jsonl, line 3: torn' in problems
    assert "unknown fields ['colour'], missing ['backbone', 'method', 'seed']" in problems
    assert 'foreign.json, line 2' in problems and 'bytes.json, line 1' in problems


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='is no folder'):
        rows.read(tmp_path / 'none')


_WRITER = """
import sys
from dataclasses import replace
from jax_prompt.report import rows
row = rows.Row.from_json(sys.stdin.readline())
print('ready', flush=True)
sys.stdin.readline()
for i in range(20):
    rows.append(sys.argv[1], replace(row, task=f'task{i}', seed=int(sys.argv[2])))
    rows.append(sys.argv[1], row)  # the same row from all
"""

_KILLED = """
import os, signal, sys
from jax_prompt.report import rows
row = rows.Row.from_json(sys.stdin.readline())
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
rows.append(sys.argv[1], row)
"""


def start(code, *args):
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    return subprocess.Popen(
        [sys.executable, '-c', code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )


def test_processes_append_at_once_and_one_is_killed_while_it_writes(tmp_path):
    writers = [start(_WRITER, tmp_path, seed) for seed in range(3)]
    try:
        for writer in writers:
            writer.stdin.write(ROW.to_json() + '\n')
            writer.stdin.flush()
        for writer in writers:
            assert writer.stdout.readline() == 'ready\n'
        killed = start(_KILLED, tmp_path)
        for writer in writers:
            writer.stdin.write('\n')
            writer.stdin.flush()
        killed.communicate(replace(ROW, seed=99).to_json() + '\n', timeout=60)
        for writer in writers:
            writer.communicate(timeout=60)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert killed.returncode == -signal.SIGKILL
    table = rows.read(tmp_path)
    assert len(table.rows) == 3 * 20 + 1
    assert not [row for row in table.rows if row.seed == 99]
    assert len(table.problems) == 1 and 'unfinished' in table.problems[0]


CONFIG = {
    'data': '/somewhere/dtd.npz',
    'weights': '/somewhere/vit.npz',
    'method': 'adapter',
    'backbone': 'vit_micro',
    'seed': 3,
    'epochs': 5,
    'tuner': {'hidden': 8, 'faithful': False},
    'transform': {},
    'input': {'resize': 'bicubic', 'workers': 2},
    'engine': {'on_nonfinite': 'stop', 'checkpoint_seconds': 30.0},
}
RESULT = {
    **{'method': 'adapter', 'backbone': 'vit_micro', 'seed': 3, 'data': 'dtd.npz'},
    **{'data_fingerprint': 'd1', 'trained_on': 'train', 'test_accuracy': 0.5, 'lr': 0.01},
    **{'test_accuracy_best_val': None, 'num_trainable': 9, 'num_trainable_head': 4},
    **{'seconds_total': 2.0, 'images_per_second': 3.0, 'peak_memory_mb': 4.0, 'weights': None},
    **{'versions': {'jax': '1'}, 'machine': {'device': 'cpu'}},
}


def test_run_directory_becomes_a_row(tmp_path):
    with pytest.raises(FileNotFoundError, match='not finished'):
        from_workdir(tmp_path)
    (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
    (tmp_path / 'result.json').write_text(json.dumps(RESULT))
    row = from_workdir(tmp_path, 'dtd', 'vtab')
    assert from_workdir(tmp_path, 'dtd', 'vtab') == row  # collected again, it is the same row
    assert (row.task, row.benchmark, row.label) == ('dtd', 'vtab', 'adapter(hidden=8)')
    assert (row.accuracy, row.num_trainable, row.num_trainable_head) == (0.5, 9, 4)
    assert row.chosen == {'lr': 0.01}
    assert row.hyperparameters['input'] == {'resize': 'bicubic'}
    elsewhere = {**CONFIG, 'data': '/other', 'input': {'resize': 'bicubic', 'workers': 8}}
    moved = from_result(RESULT, elsewhere, 'dtd', 'vtab', row.finished)
    assert moved.run_id == row.run_id
    with pytest.raises(ValueError, match='no test accuracy'):
        from_result({**RESULT, 'test_accuracy': None}, CONFIG, '', '', '')
