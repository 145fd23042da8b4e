import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jax_prompt.core import lease, owner
from jax_prompt.core.lease import Tenure, acquire, read_tenure


def _files(unit):
    return sorted(str(path.relative_to(unit)) for path in unit.rglob('*') if path.is_file())


def test_a_unit_goes_from_new_to_done(tmp_path):
    unit = tmp_path / 'task' / 'seed_0'
    assert read_tenure(unit) == Tenure('new')
    claim = acquire(unit, read_tenure(unit))
    found = read_tenure(unit)
    assert (found.state, found.path) == ('busy', claim.directory)
    assert found.owner.split('-')[-2] == str(os.getpid())
    assert acquire(unit, Tenure('new')) is None
    (claim.directory / 'result.json').write_text('{}')
    assert claim.finish('run')
    assert read_tenure(unit) == Tenure('done', unit / 'run')
    assert (unit / 'run' / 'result.json').exists()
    assert acquire(unit, Tenure('new')) is None
    assert os.listdir(unit) == ['run']
    assert os.listdir(unit.parent) == ['seed_0']


def test_of_many_takers_one_succeeds(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for turn in range(20):
            unit = tmp_path / f'unit_{turn}'
            for state in ('new', 'failed', 'free'):
                found = read_tenure(unit)
                assert found.state == state
                got = [one for one in pool.map(lambda _, f=found, u=unit: acquire(u, f), range(8))]
                winners = [claim for claim in got if claim is not None]
                assert len(winners) == 1
                assert winners[0].held()
                assert read_tenure(unit).path == winners[0].directory
                assert winners[0].finish('failed') if state == 'new' else not winners[0].release()


def test_what_a_dead_process_held_is_free_at_once_and_keeps_its_files(tmp_path):
    unit = tmp_path / 'unit'
    script = (
        'import os, signal, sys; from pathlib import Path; '
        'from jax_prompt.core.lease import read_tenure, acquire; unit = Path(sys.argv[1]); '
        'claim = acquire(unit, read_tenure(unit)); (claim.directory / "kept").write_text("x"); '
        'os.kill(os.getpid(), signal.SIGKILL)'
    )
    subprocess.run([sys.executable, '-c', script, str(unit)], check=False)
    found = read_tenure(unit)
    assert found.state == 'free'
    assert found.age < lease.DEAD_SECONDS
    claim = acquire(unit, found)
    assert (claim.directory / 'kept').exists()
    assert read_tenure(unit).state == 'busy'
    claim.release()
    assert read_tenure(unit).state == 'free'


def test_silence_frees_a_unit_and_its_former_owner_can_do_no_harm(tmp_path):
    unit = tmp_path / 'unit'
    slow = acquire(unit, read_tenure(unit), beat_seconds=1e9)
    # As another machine's: nothing is known of it but its signs.
    elsewhere = slow.directory.with_name('run@elsewhere-00000000-1-abcd')
    os.rename(slow.directory, elsewhere)
    slow.directory = elsewhere
    assert read_tenure(unit).state == 'busy'
    past = time.time() - 100.0
    os.utime(elsewhere / 'heartbeat', (past, past))
    assert read_tenure(unit).state == 'busy'
    found = read_tenure(unit, dead_seconds=60.0)
    assert found.state == 'free'
    assert found.age == pytest.approx(100.0, abs=20.0)
    other = acquire(unit, found)
    assert acquire(unit, found) is None  # a third one that had seen the same
    assert not slow.held()
    with pytest.raises(FileNotFoundError):
        (elsewhere / 'result.json').write_text('{"mine": 1}')
    # What makes its folders anew writes beside the unit's directory, and is no claim.
    (elsewhere / 'checkpoints').mkdir(parents=True)
    assert read_tenure(unit).path == other.directory
    assert not slow.finish('run')
    assert not elsewhere.exists()
    (other.directory / 'result.json').write_text('{"other": 1}')
    assert other.finish('run')
    assert _files(unit) == ['run/heartbeat', 'run/result.json']


def test_signs_of_life_come_while_the_owner_works(tmp_path):
    unit = tmp_path / 'unit'
    claim = acquire(unit, read_tenure(unit), beat_seconds=0.01)
    beat = claim.directory / 'heartbeat'
    os.utime(beat, (0, 0))
    for _ in range(1000):
        if beat.stat().st_mtime > 0:
            break
        time.sleep(0.01)
    assert read_tenure(unit).state == 'busy'
    claim.release()
    assert beat.stat().st_mtime == 0


def test_a_failed_unit_can_be_taken_again_and_cleared(tmp_path):
    unit = tmp_path / 'unit'
    first = acquire(unit, read_tenure(unit))
    (first.directory / 'search').mkdir()
    (first.directory / 'search' / 'row').write_text('x')
    (first.directory / 'failed.json').write_text('{}')
    assert first.finish('failed')
    again = acquire(unit, read_tenure(unit))
    assert _files(again.directory) == ['failed.json', 'heartbeat', 'search/row']
    again.clear()
    assert _files(again.directory) == ['heartbeat']
    assert again.finish('run')


def test_a_directory_whose_sign_was_removed_by_hand_is_free_in_the_end(tmp_path):
    unit = tmp_path / 'unit'
    held = acquire(unit, read_tenure(unit), beat_seconds=1e9)
    (held.directory / 'heartbeat').unlink()
    assert read_tenure(unit).state == 'busy'  # its process lives, and was heard of just now
    past = time.time() - 200.0
    os.utime(held.directory, (past, past))
    found = read_tenure(unit)
    assert (found.state, found.path) == ('free', held.directory)
    other = acquire(unit, found)
    assert read_tenure(unit)[:2] == ('busy', other.directory)
    assert not held.finish('run') and other.finish('run')
    assert os.listdir(unit) == ['run']


def test_a_dead_owner_whose_sign_was_removed_holds_nothing(tmp_path):
    ended = subprocess.Popen(['true'])
    ended.wait()
    left = tmp_path / 'unit' / f'run@{owner.host()}-{ended.pid}-aa'
    left.mkdir(parents=True)
    assert read_tenure(tmp_path / 'unit').state == 'free'
