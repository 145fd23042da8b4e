import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jax_prompt.core.files import put_in_place, whole_file

ROOT = Path(__file__).resolve().parents[2]

_KILLED = """
import os, signal, sys
from jax_prompt.core.files import whole_file
with whole_file(sys.argv[1]) as file:
    file.write(b'half')
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize('durable', [False, True])
def test_the_old_content_stands_until_the_new_is_complete(tmp_path, durable):
    path = tmp_path / 'file.json'
    path.write_text('old')
    with whole_file(path, durable=durable) as file:
        file.write(b'new')
        file.flush()
        assert path.read_text() == 'old'
        (part,) = (p for p in tmp_path.iterdir() if p != path)
        assert part.name.startswith('file.json.') and part.suffix == '.part'
    assert path.read_text() == 'new'
    assert os.listdir(tmp_path) == ['file.json']


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b'half')
        raise KeyboardInterrupt
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['file']


def test_a_killed_process_leaves_the_old_file_and_a_part(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, '-c', _KILLED, path], env=environment, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == 'old'
    (part,) = tmp_path.glob('*.part')
    assert part.read_text() == 'half'


def test_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / 'file'
    with whole_file(path) as one, whole_file(path) as other:
        one.write(b'one' * 1000)
        other.write(b'other')
    assert path.read_bytes() == b'one' * 1000  # the outer block ends last
    assert os.listdir(tmp_path) == ['file']


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / 'plain').touch()
    with whole_file(tmp_path / 'file'):
        pass
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ('plain', 'file')]
    assert modes[0] == modes[1]


def test_durable_writes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    order = []
    fsync, move = os.fsync, os.replace

    def synced(handle):
        order.append('folder' if stat.S_ISDIR(os.fstat(handle).st_mode) else 'file')
        fsync(handle)

    def moved(old, new):
        order.append('name')
        move(old, new)

    monkeypatch.setattr(os, 'fsync', synced)
    monkeypatch.setattr(os, 'replace', moved)
    (tmp_path / 'part').write_bytes(b'content')
    put_in_place(tmp_path / 'part', tmp_path / 'file', durable=True)
    assert order == ['file', 'name', 'folder'][: 3 if os.name == 'posix' else 2]
    order.clear()
    with whole_file(tmp_path / 'file') as file:
        file.write(b'other')
    assert order == ['name'] and (tmp_path / 'file').read_bytes() == b'other'
