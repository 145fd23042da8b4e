"""Ctrl-C and SIGTERM: what trains is saved after the call at work, and goes on from there."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from small_job import linear_head, linear_job, two_classes

from jax_prompt.core.failure import Interrupted
from jax_prompt.search import population
from jax_prompt.train import loop, members, stopping
from jax_prompt.train.checkpoint import Checkpoints


@pytest.fixture(scope='module')
def parts():
    return replace(linear_head()[0], epochs=3, steps_per_epoch=4), two_classes(16)


def _job(program, data, folder):
    changes = {'val': None, 'metrics': None, 'steps_per_call': 2, 'checkpoint_seconds': 1e9}
    return linear_job('train', folder, data, program, **changes)


def _latest(folder):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.latest()
    finally:
        checkpoints.close()


def _signal_in(monkeypatch, number, at):
    """Sends this process a signal in the device call number `at`."""
    steps, count = members.Members.steps, []

    def sent(self, *args):
        count.append(1)
        if len(count) == at:
            os.kill(os.getpid(), number)
        return steps(self, *args)

    monkeypatch.setattr(members.Members, 'steps', sent)
    return count


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_training_is_saved_and_goes_on(parts, tmp_path, monkeypatch, number, capfd):
    program, data = parts
    before = signal.getsignal(number)
    job = _job(program, data, tmp_path)
    count = _signal_in(monkeypatch, number, 3)
    with pytest.raises(Interrupted, match='train: stopped after step 6, saved') as error:
        loop.fit(job)
    assert (error.value.number, len(count), _latest(job.directory)) == (number, 3, 6)
    assert signal.getsignal(number) is before
    assert 'once more ends at once' in capfd.readouterr().err
    loop.fit(job)
    assert (len(count), _latest(job.directory)) == (6, 12)


def test_a_population_is_saved(parts, tmp_path, monkeypatch):
    program, data = parts
    jobs = [_job(program, data, tmp_path / name) for name in 'ab']
    _signal_in(monkeypatch, signal.SIGINT, 1)
    with pytest.raises(Interrupted, match='train and 1 more: stopped after step 2, saved'):
        population.fit_population(jobs)
    assert [_latest(job.directory) for job in jobs] == [2, 2]


def test_a_signal_after_the_last_call_still_ends():
    with pytest.raises(Interrupted, match='all is saved') as error, stopping.after_the_call():
        os.kill(os.getpid(), signal.SIGTERM)
    assert error.value.number == signal.SIGTERM
    with stopping.after_the_call():
        stopping.stop_if_asked('train', 1, lambda: pytest.fail('nobody asked'))


def test_threads_leave_signals_alone():
    seen = []

    def act():
        with stopping.after_the_call():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


_TWICE = """
import os, signal, time
from jax_prompt.train.stopping import after_the_call
with after_the_call():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


def test_a_second_signal_ends_at_once():
    done = subprocess.run(
        [sys.executable, '-c', _TWICE], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 143
    assert 'ended at once' in done.stderr
