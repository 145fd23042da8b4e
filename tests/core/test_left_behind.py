"""What killed processes leave is removed by the next one, and nothing of a living process is."""

import os
import subprocess
import sys
import tempfile
import time

import pytest

from jax_prompt.core.files import own_temporaries, remove_left, temporary_folder, whole_file
from jax_prompt.core.lease import DEAD_SECONDS, acquire, read_tenure
from jax_prompt.core.owner import host, is_gone, new_owner


@pytest.fixture(scope='module')
def dead():
    """The name of a process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    return f'{host()}-{process.pid}-0123abcd'


def test_owners_are_told_apart(dead):
    assert is_gone(dead)
    assert not is_gone(new_owner())
    for name in ('elsewhere-00000000-1-ab', '', 'x', f'{host()}-abc-1', f'{host()}-{10**20}-1'):
        assert not is_gone(name)


def test_parts_of_the_dead_go_when_the_file_is_written_again(tmp_path, dead):
    kept = f'a.json.{new_owner()}.part', 'a.json.elsewhere-0-1-ab.part', 'b.json.0123.part'
    for name in (f'a.json.{dead}.part', *kept, 'a.json.0123.part'):
        (tmp_path / name).touch()
    past = time.time() - 25 * 3600
    os.utime(tmp_path / 'a.json.0123.part', (past, past))  # of whom, nobody knows; a day old
    with whole_file(tmp_path / 'a.json') as file:
        file.write(b'{}')
    assert sorted(os.listdir(tmp_path)) == sorted(['a.json', *kept])


def test_folders_of_the_dead_go_when_the_next_is_made(tmp_path, dead):
    (tmp_path / f'.prepare_{dead}' / 'digits').mkdir(parents=True)
    (tmp_path / '.prepare_elsewhere').mkdir()
    with temporary_folder(tmp_path, '.prepare_') as mine:
        assert sorted(os.listdir(tmp_path)) == sorted([mine.name, '.prepare_elsewhere'])
    assert os.listdir(tmp_path) == ['.prepare_elsewhere']
    remove_left(tmp_path / 'nowhere', '.prepare_', '')


def test_what_packages_leave_in_the_temporary_folder_goes_with_ours(tmp_path):
    before = tempfile.gettempdir()
    with temporary_folder(tmp_path, '.prepare_') as mine, own_temporaries(mine):
        left = tempfile.mkdtemp('tfds')
        assert left.startswith(str(mine))
    assert os.listdir(tmp_path) == [] and tempfile.gettempdir() == before


def test_a_unit_that_was_never_taken_leaves_no_folder(tmp_path, dead):
    (tmp_path / f'.search.{dead}' / f'run@{dead}').mkdir(parents=True)
    claim = acquire(tmp_path / 'search', read_tenure(tmp_path / 'search'), beat_seconds=1e9)
    assert os.listdir(tmp_path) == ['search']
    claim.release()


def test_a_sign_from_the_future_blocks_no_longer_than_another(tmp_path):
    unit = tmp_path / 'unit'
    beat = unit / 'run@elsewhere-00000000-1-abcd' / 'heartbeat'
    beat.parent.mkdir(parents=True)
    beat.touch()
    ahead = time.time() + 365 * 86400
    os.utime(beat, (ahead, ahead))
    assert read_tenure(unit).state == 'busy'  # its owner may live; the sign is counted from now
    assert beat.stat().st_mtime < time.time() + 60
    past = beat.stat().st_mtime - DEAD_SECONDS - 60
    os.utime(beat, (past, past))
    assert read_tenure(unit).state == 'free'
