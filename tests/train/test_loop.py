from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import begun, copied
from small_data import dark_and_bright

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.tree import split
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import METHODS
from jax_prompt.model import build_classifier
from jax_prompt.train import members
from jax_prompt.train.job import Data, Job, NonFiniteLoss
from jax_prompt.train.log import read_metrics
from jax_prompt.train.loop import fit
from jax_prompt.train.members import epoch_order
from jax_prompt.train.optim import Hyper, Optim
from jax_prompt.train.options import Engine
from jax_prompt.train.program import Program

CONFIG = ViTConfig(16, 2, 2, 32, 4, 8)


@pytest.fixture(scope='module')
def model():
    classifier = build_classifier(CONFIG, METHODS['vpt_deep'], 2, num_prompts=3, dropout_rate=0.1)
    params = begun(classifier)
    return classifier, *split(params, lambda path: not path.startswith('backbone/'))


@pytest.fixture
def job(model, tmp_path):
    program = Program(
        classifier=model[0],
        optim=Optim('adamw', warmup_epochs=0.5),
        epochs=4,
        steps_per_epoch=5,
        augment=Augment(crop='random', pad=1, flip=True),
        image_size=8,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    return Job(
        name='train',
        directory=tmp_path / 'checkpoints',
        program=program,
        trainable=model[1],
        frozen=model[2],
        hyper=Hyper(1e-2, 1e-4, 1e-4),
        seed=0,
        train=dark_and_bright(18),
        val=dark_and_bright(9, seed=1),
        batch_size=4,
        engine=Engine(eval_batch_size=4, steps_per_call=2, checkpoint_seconds=0.0),
        metrics=tmp_path / 'metrics.jsonl',
        quiet=True,
    )


def _equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_an_epoch_visits_each_example_once():
    rows, weights = epoch_order(jax.random.key(0), 3, 10, 4, 3)
    assert rows.shape == (3, 4)
    assert sorted(rows.reshape(-1)[weights.reshape(-1) == 1]) == list(range(10))
    again, _ = epoch_order(jax.random.key(0), 3, 10, 4, 3)
    other, _ = epoch_order(jax.random.key(0), 4, 10, 4, 3)
    np.testing.assert_array_equal(rows, again)
    assert (rows != other).any()


def test_training_learns_and_reports(job):
    got = fit(job)
    assert got.val_accuracy == got.best_val_accuracy == 1.0
    rows = read_metrics(job.metrics)
    assert [row['epoch'] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]['step'] == 20
    assert rows[-1]['loss'] < rows[0]['loss']
    assert got.images_per_second > 0


def test_calls_of_one_length_share_a_program(job):
    """The first call's state is typed as what it returns: nothing in it is weakly typed."""
    compiled = []

    def listen(event, seconds, fun_name='', **_):
        if event.endswith('/backend_compile_duration') and 'make_steps' in fun_name:
            compiled.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    fit(replace(job, program=replace(job.program, epochs=3)))
    jax.monitoring.unregister_event_duration_listener(listen)
    assert len(compiled) == 2  # an epoch of 5 steps has calls of 2 and of 1


@pytest.mark.parametrize('stop_after', [1, 4, 7])
def test_a_killed_stage_goes_on_to_the_same_bits(job, monkeypatch, stop_after):
    elsewhere = replace(
        job, directory=job.directory / 'whole', metrics=job.metrics.with_suffix('.whole')
    )
    whole = fit(elsewhere)

    class Kill(Exception):
        pass

    calls = []
    steps = members.make_steps

    def dying(*args, **options):
        calls.append(1)
        if len(calls) > stop_after:
            raise Kill
        return steps(*args, **options)

    monkeypatch.setattr(members, 'make_steps', dying)
    with pytest.raises(Kill):
        fit(job)
    monkeypatch.setattr(members, 'make_steps', steps)
    resumed = fit(job)
    _equal(resumed.trainable, whole.trainable)
    _equal(resumed.best, whole.best)
    compared = ('epoch', 'loss', 'train_accuracy', 'val_accuracy')
    rows = [
        [{k: row[k] for k in compared} for row in read_metrics(s.metrics)] for s in (job, elsewhere)
    ]
    assert rows[0] == rows[1]


def test_a_finished_stage_trains_no_more(job, monkeypatch):
    first = fit(job)
    monkeypatch.setattr(members, 'make_steps', partial(pytest.fail, 'trained again'))
    _equal(fit(job).trainable, first.trainable)


class _Stream:
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data.labels)

    def batches(self, order):
        for row in order:
            yield self.data.data[row], self.data.labels[row]


def test_streamed_training_equals_resident_training(job):
    want = fit(job)
    streamed = replace(
        job,
        directory=job.directory / 'streamed',
        train=Data(_Stream(job.train), job.train.labels),
    )
    got = fit(streamed)
    close = partial(np.testing.assert_allclose, atol=1e-5)
    jax.tree.map(close, got.trainable, want.trainable)


def test_a_non_finite_loss_names_the_step_and_keeps_the_checkpoint(job, monkeypatch):
    program = replace(job.program, optim=Optim('sgd'))
    wild = replace(job, program=program, hyper=Hyper(jnp.inf, 0.0, 0.0))
    with pytest.raises(NonFiniteLoss, match=r'at step 1 \(epoch 1\), learning rate inf'):
        fit(wild)
    with pytest.raises(NonFiniteLoss, match='No checkpoint yet'):
        fit(wild)
    steps = members.make_steps

    def spoiled(program, state, *rest):
        at = int(state.step)
        state, metrics = steps(program, state, *rest)
        if at >= 10:
            metrics['loss'] = metrics['loss'].at[1].set(jnp.nan)
        return state, metrics

    monkeypatch.setattr(members, 'make_steps', spoiled)
    with pytest.raises(NonFiniteLoss, match=r'step 11 \(epoch 3\).*checkpoint of step 10 is kept'):
        fit(job)


def test_the_moving_average_is_what_is_evaluated(job):
    program = replace(job.program, optim=Optim('adamw', ema_decay=0.5))
    got = fit(replace(job, program=program))
    plain = fit(replace(job, directory=job.directory / 'plain'))
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), got.trainable, plain.trainable)
    assert max(jax.tree.leaves(difference)) > 1e-4


def test_the_average_is_the_sum_of_past_weights(job):
    program = replace(job.program, optim=Optim('sgd', ema_decay=0.5), epochs=1)
    images, labels = (jnp.asarray(x[:4]) for x in job.train)
    state = program.init(copied(job.trainable))
    average = jax.tree.map(np.asarray, job.trainable)
    for _ in range(3):
        state, _ = members.make_step(
            program,
            state,
            job.frozen,
            images,
            labels,
            jnp.ones(4),
            Hyper(*map(jnp.float32, (0.1, 0.0, 0.0))),
            jax.random.key(0),
        )
        average = jax.tree.map(lambda a, w: 0.5 * a + 0.5 * np.asarray(w), average, state.trainable)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), state.ema, average)
