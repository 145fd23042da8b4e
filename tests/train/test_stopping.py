"""Ctrl-C and SIGTERM: what trains is saved after the call at work, and goes on from there."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import jax
import pytest
from small_data import dark_and_bright

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.failure import Interrupted
from jax_prompt.core.tree import split
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import METHODS
from jax_prompt.model import build_classifier
from jax_prompt.search import population
from jax_prompt.train import loop, stopping
from jax_prompt.train.checkpoint import Checkpoints
from jax_prompt.train.job import Job
from jax_prompt.train.optim import Hyper, Optim
from jax_prompt.train.step import Program


@pytest.fixture(scope='module')
def parts():
    classifier = build_classifier(ViTConfig(16, 1, 2, 32, 4, 8), METHODS['linear'], 2)
    params = classifier.init(jax.random.key(0))
    trees = split(params, lambda path: not path.startswith('backbone/'))
    program = Program(
        classifier=classifier,
        optim=Optim('sgd'),
        epochs=3,
        steps_per_epoch=4,
        augment=Augment(),
        image_size=8,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    return program, *trees


def _job(program, folder):
    return Job(
        name='train',
        directory=folder,
        program=program,
        hyper=Hyper(1e-2, 0.0, 0.0),
        seed=0,
        train=dark_and_bright(16),
        val=None,
        batch_size=4,
        steps_per_call=2,
        checkpoint_seconds=1e9,
        quiet=True,
    )


def _latest(folder):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.latest()
    finally:
        checkpoints.close()


def _signal_in(monkeypatch, kind, number, at):
    """Sends this process a signal in the device call number `at`."""
    call, count = kind._call, []

    def sent(self, *args):
        count.append(1)
        if len(count) == at:
            os.kill(os.getpid(), number)
        call(self, *args)

    monkeypatch.setattr(kind, '_call', sent)
    return count


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_training_is_saved_and_goes_on(parts, tmp_path, monkeypatch, number, capfd):
    program, trainable, frozen = parts
    before = signal.getsignal(number)
    job = _job(program, tmp_path)
    count = _signal_in(monkeypatch, loop._Training, number, 3)
    with pytest.raises(Interrupted, match='train: stopped after step 6, saved') as error:
        loop.fit(job, trainable, frozen)
    assert (error.value.number, len(count), _latest(tmp_path)) == (number, 3, 6)
    assert signal.getsignal(number) is before
    assert 'once more ends at once' in capfd.readouterr().err
    loop.fit(job, trainable, frozen)
    assert (len(count), _latest(tmp_path)) == (6, 12)


def test_a_population_is_saved(parts, tmp_path, monkeypatch):
    program, trainable, frozen = parts
    first = _job(program, tmp_path / 'a')
    jobs = [first, replace(first, directory=tmp_path / 'b')]
    _signal_in(monkeypatch, population._Population, signal.SIGINT, 1)
    with pytest.raises(Interrupted, match='train and 1 more: stopped after step 2, saved'):
        population.fit_population(jobs, [trainable, trainable], frozen)
    assert [_latest(tmp_path / name) for name in 'ab'] == [2, 2]


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
