from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import begun
from small_data import dark_and_bright

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.spec import FEATURES
from jax_prompt.core.tree import split
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import METHODS
from jax_prompt.model import build_classifier
from jax_prompt.runs.prefix import frozen_prefix
from jax_prompt.search.population import fit_population
from jax_prompt.train import members
from jax_prompt.train.job import Data, Job
from jax_prompt.train.ledger import Ledger
from jax_prompt.train.log import read_metrics
from jax_prompt.train.loop import fit
from jax_prompt.train.mesh import data_mesh, replicate
from jax_prompt.train.optim import Hyper, Optim
from jax_prompt.train.options import Engine
from jax_prompt.train.program import Program, make_logits
from jax_prompt.train.step import make_steps
from jax_prompt.tuners.robust import RobustTraining

CONFIG = ViTConfig(16, 2, 2, 32, 4, 8)
LRS = (1e-3, 1e-2, 3e-2)


TRAIN, VAL = dark_and_bright(10), dark_and_bright(6, seed=1)


@cache
def _model(method, seed=0, **options):
    classifier = build_classifier(CONFIG, METHODS[method], 2, **options)
    params = begun(classifier, seed)
    predicate = METHODS[method].predicate(classifier.tuner, classifier.spec)
    return classifier, *split(params, predicate)


def _job(model, tmp_path, **changes):
    classifier, trainable, frozen = model
    program = Program(
        classifier=classifier,
        optim=changes.pop('optim', Optim('adamw', warmup_epochs=0.5)),
        epochs=2,
        steps_per_epoch=3,
        augment=changes.pop('augment', Augment()),
        image_size=8,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        **changes.pop('program', {}),
    )
    base = {'hyper': Hyper(1e-2, 1e-3, 1e-2), 'seed': 0, 'train': TRAIN, 'val': VAL}
    base |= {'batch_size': 4, 'quiet': True, 'metrics': tmp_path / 'metrics.jsonl'}
    base |= {'engine': Engine(eval_batch_size=6, checkpoint_seconds=0.0)}
    base |= {'program': program, 'trainable': trainable, 'frozen': frozen}
    return Job(name='a', directory=tmp_path / 'a', **base | changes)


def _grid(job, lrs=LRS, where='members'):
    return [
        replace(
            job,
            name=f'{where}/{i}',
            directory=job.directory.parent / where / str(i),
            hyper=Hyper(lr, 1e-3 * i, 1e-2),
        )
        for i, lr in enumerate(lrs)
    ]


def _equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# Adam divides by the gradient's own size: rounding in a tiny gradient is a share of lr (3e-2).
_close = partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5)


def _compare(jobs):
    """Holds every member to its solo run, and its rows in metrics.jsonl to the solo run's."""
    outcomes = fit_population(jobs)
    for job, outcome in zip(jobs, outcomes, strict=True):
        solo = replace(job, name=f'solo_{job.name}', directory=job.directory / 'solo')
        want = fit(solo)
        assert outcome.status == 'done'
        jax.tree.map(_close, outcome.fit.trainable, want.trainable)
        jax.tree.map(_close, outcome.fit.best, want.best)
        assert outcome.fit.val_accuracy == want.val_accuracy
        assert outcome.fit.best_epoch == want.best_epoch
        kept = ('epoch', 'step', 'loss', 'grad_norm', 'train_accuracy')
        kept += ('val_accuracy', 'val_loss') if job.val else ()
        rows = [
            [[row[k] for k in kept] for row in read_metrics(job.metrics) if row['stage'] == name]
            for name in (job.name, solo.name)
        ]
        assert len(rows[0]) == 2
        np.testing.assert_allclose(*rows, rtol=2e-5)
    return outcomes


CASES = {
    'vpt_deep': ({'num_prompts': 2, 'dropout_rate': 0.2}, {}),
    'lora': ({}, {'optim': Optim('adamw', clip_norm=0.1, ema_decay=0.5)}),
    'bias': ({}, {'optim': Optim('sgd')}),
    # Of LION's options the smallest. The bar of its robust training is a share of the largest
    # criticality, where few parameters lie: near a quantile, rounding may move one across it.
    'lion': (
        {'channels': 2, 'max_iter': 4},
        {'program': {'transform': RobustTraining(0.01, 'max', warmup_steps=3)}},
    ),
}


@pytest.mark.parametrize('method', CASES)
def test_a_member_is_its_solo_run(tmp_path, method):
    options, changes = CASES[method]
    # One method is validated: each program takes its time to compile.
    val = VAL if method == 'vpt_deep' else None
    job = _job(_model(method, **options), tmp_path, val=val, **changes)
    jobs = _grid(job, LRS[: 2 if method == 'lion' else 3])
    outcomes = _compare(jobs)
    heads = [np.asarray(outcome.fit.trainable['head']['kernel']) for outcome in outcomes]
    assert np.abs(heads[0] - heads[1]).max() > 1e-3  # the grid is one


@pytest.mark.optimised
def test_a_member_is_its_solo_run_in_optimised_programs(tmp_path):
    options, changes = CASES['bias']
    _compare(_grid(_job(_model('bias', **options), tmp_path, **changes)))


def test_members_on_cached_features(tmp_path):
    job = _job(_model('linear'), tmp_path)
    cached = [
        Data(frozen_prefix(job.program, FEATURES, job.frozen['backbone'], d.data, 4), d.labels)
        for d in (TRAIN, VAL)
    ]
    program = replace(job.program, start=FEATURES)
    jobs = _grid(replace(job, program=program, train=cached[0], val=cached[1]))
    _compare(jobs)


def test_members_with_seeds_of_their_own(tmp_path):
    models = [_model('vpt_shallow', seed, num_prompts=2) for seed in (0, 1)]
    job = _job(models[0], tmp_path, augment=Augment(crop='random', pad=1, flip=True))
    grid = zip(_grid(job, LRS[1:]), models, strict=True)
    jobs = [replace(s, seed=i, trainable=model[1]) for i, (s, model) in enumerate(grid)]
    _compare(jobs)


class _Stream:
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data.labels)

    def batches(self, order):
        for row in order:
            yield self.data.data[row], self.data.labels[row]


@pytest.mark.parametrize('seeds', [(0, 0), (0, 1)])
def test_streamed_members_equal_resident_ones(tmp_path, seeds):
    grid = _grid(_job(_model('vpt_shallow', num_prompts=2), tmp_path), LRS[1:])
    jobs = [replace(job, seed=seed) for job, seed in zip(grid, seeds, strict=True)]
    want = fit_population(jobs)
    stream = Data(_Stream(TRAIN), TRAIN.labels)
    streamed = [replace(s, directory=s.directory / 'streamed', train=stream) for s in jobs]
    got = fit_population(streamed)
    for a, b in zip(got, want, strict=True):
        jax.tree.map(_close, a.fit.trainable, b.fit.trainable)


def test_one_member_diverges_alone(tmp_path):
    job = _job(_model('vpt_deep', num_prompts=2), tmp_path, optim=Optim('sgd'))
    failures = []
    grid = _grid(job, (1e-2, 3e38, 3e-2))
    note = lambda index, outcome: failures.append((index, outcome.status))  # noqa: E731
    got = fit_population(grid, on_failure=note)
    tame = _grid(job, (1e-2, 2e-2, 3e-2), 'tame')
    want = fit_population(tame)
    for i in (0, 2):
        _equal(got[i].fit.trainable, want[i].fit.trainable)
    assert got[1].fit is None
    assert 'members/1: the loss is' in got[1].status
    assert 'at step 1 (epoch 1), learning rate 3e+38' in got[1].status
    assert failures == [(1, got[1].status)]
    epochs = [row['epoch'] for row in read_metrics(job.metrics) if row['stage'] == 'members/1']
    assert epochs == []


@pytest.mark.parametrize('stop_after', [1, 3])
def test_a_killed_population_goes_on_to_the_same_bits(tmp_path, monkeypatch, stop_after):
    job = _job(_model('vpt_deep', num_prompts=2, dropout_rate=0.2), tmp_path, optim=Optim('sgd'))
    lrs = (1e-2, 3e38, 3e-2)
    whole = fit_population(_grid(job, lrs, 'whole'))

    class Kill(Exception):
        pass

    saves, save = [], Ledger.save

    def dying(record, state):
        saves.append(1)
        if len(saves) > stop_after:
            raise Kill
        save(record, state)

    grid, failed = _grid(job, lrs), []
    note = lambda index, outcome: failed.append(index)  # noqa: E731
    monkeypatch.setattr(Ledger, 'save', dying)
    with pytest.raises(Kill):
        fit_population(grid, on_failure=note)
    monkeypatch.setattr(Ledger, 'save', save)
    calls, steps = [], members.make_steps

    def counted(*args):
        calls.append(1)
        return steps(*args)

    monkeypatch.setattr(members, 'make_steps', counted)
    got = fit_population(grid, skip=failed)
    # Stopped among the saves of one moment, it goes on from the step that all members have.
    assert len(calls) == {1: 2, 3: 1}[stop_after]
    for i in (0, 2):
        _equal(got[i].fit.trainable, whole[i].fit.trainable)
        _equal(got[i].fit.best, whole[i].fit.best)
        assert got[i].fit.val_accuracy == whole[i].fit.val_accuracy
    rows = [row['epoch'] for row in read_metrics(job.metrics) if row['stage'] == 'members/2']
    assert rows == [1, 2]


def test_a_solo_run_goes_on_from_a_members_checkpoint(tmp_path):
    grid = _grid(_job(_model('vpt_shallow', num_prompts=2), tmp_path))
    fit_population([replace(job, until=1) for job in grid])
    got = fit(grid[1])
    alone = fit(replace(grid[1], directory=tmp_path / 'alone'))
    jax.tree.map(_close, got.trainable, alone.trainable)


def test_a_population_on_four_devices(tmp_path):
    job = _job(_model('vpt_shallow', num_prompts=2), tmp_path)
    want = fit_population(_grid(job))
    mesh = data_mesh(4)
    put, program = partial(replicate, mesh=mesh), replace(job.program, mesh=mesh)
    job = replace(job, program=program, trainable=put(job.trainable), frozen=put(job.frozen))
    got = fit_population(_grid(job, where='mesh'))
    for a, b in zip(got, want, strict=True):
        jax.tree.map(_close, a.fit.trainable, b.fit.trainable)


def test_frozen_weights_and_images_are_there_once(tmp_path):
    grid = _grid(_job(_model('vpt_shallow', num_prompts=2), tmp_path))
    group = members.Members(grid)
    rows, weights = group.order(0)
    state = group.put(group.initial())
    args = (group.data, group.labels, rows, weights, *group.own)
    trace = jax.make_jaxpr(partial(make_steps, group.program))(state, group.frozen, *args)
    (scan,) = trace.jaxpr.eqns[0].params['jaxpr'].jaxpr.eqns
    body = scan.params['jaxpr'].jaxpr
    shapes = [var.aval.shape for eqn in body.eqns for var in eqn.outvars]
    # The patch embedding of the batch is computed once, the tokens of blocks for each member.
    assert (4, 4, 16) in shapes
    images = jnp.asarray(VAL.data)
    logits = make_logits(group.program, state.trainable, group.frozen, images, members=True)
    assert logits.shape == (6, 3, 2)


def test_stages_that_differ_in_more_are_refused(tmp_path):
    job = _job(_model('vpt_shallow', num_prompts=2), tmp_path)
    other = replace(job, batch_size=5, train=VAL)
    with pytest.raises(ValueError, match=r"differ in \['train', 'batch_size'\]"):
        fit_population([job, other])
