import json
from dataclasses import replace
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import drawn
from small_data import dark_and_bright

from jax_prompt.backbones.swin_config import SwinConfig
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.tree import merge
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier
from jax_prompt.search import search as searches
from jax_prompt.search.padding import lengthened, obstacle
from jax_prompt.search.population import fit_population, members_of
from jax_prompt.search.search import Candidate, Search
from jax_prompt.search.sizing import Population
from jax_prompt.train.checkpoint import Checkpoints
from jax_prompt.train.job import Job
from jax_prompt.train.ledger import Ledger
from jax_prompt.train.log import read_metrics
from jax_prompt.train.loop import fit
from jax_prompt.train.members import cut, padded
from jax_prompt.train.mesh import data_mesh, replicate
from jax_prompt.train.optim import Hyper, Optim
from jax_prompt.train.options import Engine
from jax_prompt.train.program import Program, with_length

CONFIG = ViTConfig(16, 2, 2, 32, 4, 8)
LENGTHS = (1, 3, 1, 3)
# Adam divides by the gradient's own size: rounding in a tiny gradient is a share of lr (3e-2).
_close = partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5)


TRAIN, VAL = dark_and_bright(10), dark_and_bright(6, seed=1)


@cache
def _model(method, num_prompts, config=CONFIG):
    """Returns a classifier, its initial trainable tree, and the frozen one of all lengths."""
    options = get_method(method).with_prompts({}, num_prompts)
    classifier = build_classifier(config, get_method(method), 2, **options)
    return classifier, drawn(classifier.init_added, jax.random.key(0)), _frozen(config)


@cache
def _frozen(config):
    init = build_classifier(config, get_method('linear'), 2).init
    return {'backbone': drawn(init, jax.random.key(0))['backbone']}


def _program(classifier, **changes):
    base = {'optim': Optim('adamw', warmup_epochs=0.5, clip_norm=0.5, ema_decay=0.5)}
    base |= {'epochs': 2, 'steps_per_epoch': 3, 'augment': Augment(), 'image_size': 8}
    return Program(classifier, mean=(0.5,) * 3, std=(0.5,) * 3, **base | changes)


def _members(method, tmp_path, where='members', lengths=LENGTHS, **changes):
    """Returns jobs of unlike lengths."""
    jobs = []
    changes = {'micro_batch': 2 if method == 'vpt_deep' else 0} | changes
    for i, length in enumerate(lengths):
        classifier, trainable, frozen = _model(method, length)
        own = {'hyper': Hyper(1e-2 * (i + 1), 1e-2 * i, 1e-2), 'seed': 0}
        own |= {'val': None if method == 'vpt_shallow' else VAL}  # each program takes its time
        own |= {'batch_size': 4, 'quiet': True, 'trainable': trainable, 'frozen': frozen}
        own |= {'engine': Engine(eval_batch_size=6, checkpoint_seconds=0.0)}
        jobs.append(
            Job(
                name=f'{where}/{i}',
                directory=tmp_path / where / str(i),
                program=_program(classifier, **changes),
                train=TRAIN,
                metrics=tmp_path / 'metrics.jsonl',
                **own,
            )
        )
    return jobs


def _prompts(tree):
    return np.asarray(tree['tuner']['shared' if 'shared' in tree['tuner'] else 'layers']['prompts'])


def _equal(a, b):
    chex.assert_trees_all_equal(a, b)


@pytest.mark.parametrize(('method', 'pool'), [('vpt_shallow', 'mean'), ('vpt_deep', 'cls')])
def test_masked_prompts_count_for_nothing(method, pool):
    config = replace(CONFIG, pool=pool)
    short, own, frozen = _model(method, 2, config)
    long, longest, _ = _model(method, 5, config)
    images = jax.random.normal(jax.random.key(2), (3, 8, 8, 3))
    # What stands in the padding is of no account, zeros or not.
    tree = jax.tree.map(lambda x: x + 3.0, {**longest, 'head': own['head']})
    values = _prompts(tree).copy()
    values[..., :2, :] = _prompts(own)
    (group,) = tree['tuner']
    tree = {'tuner': {group: {'prompts': jnp.asarray(values)}}, 'head': own['head']}
    masked = with_length(frozen, jnp.int32(2))

    def loss(trainable, classifier, frozen):
        logits = classifier.apply(merge(trainable, frozen), images, train=True)
        return jnp.sum(logits**2), logits

    # Both lengths of the padded classifier share a program; the short one has its own.
    chex.clear_trace_counter()  # it counts by the function's name, in all tests together
    traced = chex.assert_max_traces(loss, n=2)
    gradient = jax.jit(jax.grad(traced, has_aux=True), static_argnums=1)
    grads, logits = gradient(tree, long, masked)
    want, wanted = gradient(own, short, frozen)
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(_prompts(grads)[..., 2:, :], 0.0)
    jax.tree.map(_close, cut(grads, own), want)
    unmasked, _ = gradient(tree, long, with_length(frozen, jnp.int32(5)))
    assert np.abs(_prompts(unmasked)[..., 2:, :]).max() > 1e-4


def test_trees_are_padded_and_cut():
    like = {'a': np.zeros((2, 5, 3)), 'b': np.zeros(()), 'c': np.zeros(4)}
    tree = {'a': np.ones((2, 2, 3)), 'b': np.float32(7), 'c': np.arange(4)}
    full = padded(tree, like)
    assert full['a'].shape == (2, 5, 3) and full['a'].sum() == 12 and full['a'][:, :2].all()
    _equal(cut(full, tree), tree)


@pytest.mark.parametrize('method', ['vpt_shallow', 'vpt_deep'])
def test_a_member_of_its_own_length_is_its_solo_run(tmp_path, method):
    jobs = _members(method, tmp_path)
    outcomes = fit_population(jobs)
    for job, outcome in zip(jobs, outcomes, strict=True):
        solo = replace(job, name=f'solo_{job.name}', directory=job.directory / 'solo')
        want = fit(solo)
        assert _prompts(outcome.fit.trainable).shape == _prompts(job.trainable).shape
        jax.tree.map(_close, outcome.fit.trainable, want.trainable)
        jax.tree.map(_close, outcome.fit.best, want.best)
        assert outcome.fit.val_accuracy == want.val_accuracy
        kept = ('epoch', 'step', 'loss', 'grad_norm', 'train_accuracy')
        kept += ('val_accuracy', 'val_loss') if job.val else ()
        rows = [
            [[row[k] for k in kept] for row in read_metrics(job.metrics) if row['stage'] == name]
            for name in (job.name, solo.name)
        ]
        np.testing.assert_allclose(*rows, rtol=2e-5)
        # Its checkpoint is that of the solo run, by structure, shape and value.
        tree = job.trainable
        like = {'state': job.program.init(tree)._asdict(), 'best': tree if job.val else {}}
        saved = []
        for one in (job, solo):
            checkpoints = Checkpoints(one.directory)
            saved.append(checkpoints.restore(like)[0])
            checkpoints.close()
        jax.tree.map(_close, *saved)


@pytest.mark.parametrize('case', [('vpt_deep', {}), ('vpt_shallow', {'optim': Optim('sgd')})])
def test_padding_stays_zero_through_momentum_decay_and_averages(tmp_path, case):
    method, changes = case
    jobs = _members(method, tmp_path, **changes)
    members = members_of(jobs)
    state = members.put(members.initial())
    assert members.program == jobs[1].program
    state, metrics = members.steps(state, *members.order(0))
    assert np.isfinite(metrics['loss']).all()
    leaves = [np.asarray(x) for x in jax.tree.leaves(state) if x.shape[-2:] == (3, 16)]
    assert len(leaves) == (2 if changes else 4)  # prompts, their moments, their average
    for leaf in leaves:
        for i in (0, 2):
            assert np.abs(leaf[i, ..., :1, :]).min() > 0.0
            np.testing.assert_array_equal(leaf[i, ..., 1:, :], 0.0)
        assert np.abs(leaf[1]).min() > 0.0


def test_a_solo_run_goes_on_from_a_short_members_checkpoint(tmp_path):
    jobs = _members('vpt_deep', tmp_path)
    fit_population([replace(job, until=1) for job in jobs])
    got = fit(jobs[0])
    alone = fit(replace(jobs[0], directory=tmp_path / 'alone'))
    assert got.earlier_seconds > 0.0
    jax.tree.map(_close, got.trainable, alone.trainable)


def test_a_killed_mixed_population_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    jobs = _members('vpt_deep', tmp_path, 'whole')
    whole = fit_population(jobs)

    class Kill(Exception):
        pass

    saves, save = [], Ledger.save

    def dying(record, state):
        saves.append(1)
        if len(saves) > 6:  # within the saves of the second epoch
            raise Kill
        save(record, state)

    jobs = _members('vpt_deep', tmp_path)
    monkeypatch.setattr(Ledger, 'save', dying)
    with pytest.raises(Kill):
        fit_population(jobs)
    monkeypatch.setattr(Ledger, 'save', save)
    got = fit_population(jobs)
    for a, b in zip(got, whole, strict=True):
        _equal(a.fit.trainable, b.fit.trainable)
        _equal(a.fit.best, b.fit.best)
    assert got[0].fit.earlier_seconds > 0.0


def test_a_mixed_population_on_four_devices(tmp_path):
    jobs = _members('vpt_shallow', tmp_path)
    want = fit_population(jobs)
    mesh = data_mesh(4)
    jobs = _members('vpt_shallow', tmp_path, 'mesh', mesh=mesh)
    put, frozen = partial(replicate, mesh=mesh), replicate(jobs[0].frozen, mesh)
    got = fit_population([replace(j, trainable=put(j.trainable), frozen=frozen) for j in jobs])
    for a, b in zip(got, want, strict=True):
        jax.tree.map(_close, a.fit.trainable, b.fit.trainable)


SWIN = SwinConfig(16, (1, 1), (2, 4), 2, 4, 16)
APART = {
    'dropout': ('vpt_deep', CONFIG, {'dropout_rate': 0.1}, 'prompt dropout'),
    'dvpt': ('dvpt_deep', CONFIG, {}, 'DVPT does not'),
    'e2vpt': ('e2vpt', CONFIG, {}, 'E2VPT does not'),
    'gated': ('gated_vpt', CONFIG, {}, 'GatedVPT does not'),
    'pool': ('vpt_deep', replace(CONFIG, pool='mean_prompts'), {}, 'prompts are pooled'),
    'swin': ('vpt_deep', SWIN, {}, 'a swin does not'),
    'parts': ('vpt_deep', replace(CONFIG, drop_path_rate=0.1), {}, 'part by part'),
    'composed': ('vpt_deep+lora', CONFIG, {}, 'Compose does not'),
}


@pytest.mark.parametrize('case', APART)
def test_what_can_not_be_masked_exactly_is_known(case):
    name, config, options, reason = APART[case]
    method, programs = get_method(name), []
    for i, count in enumerate((2, 3)):
        given = method.with_prompts(options, count)
        classifier = build_classifier(config, method, 2, **given)
        programs.append(_program(classifier, micro_batch=i + 1))
    assert reason in obstacle(programs)
    if case == 'parts':
        assert not obstacle([replace(program, micro_batch=2) for program in programs])


def test_members_that_can_not_be_masked_are_refused(tmp_path):
    jobs = _members('gated_vpt', tmp_path)
    with pytest.raises(ValueError, match=r'\[1, 3, 1, 3\] prompts, and GatedVPT does not mask'):
        members_of(jobs)
    jobs = _members('vpt_deep', tmp_path)
    more = replace(jobs[2], program=replace(jobs[2].program, epochs=3))
    with pytest.raises(ValueError, match=r"differ in \['program'\]"):
        members_of([*jobs[:2], more])


def _search(method, folder, options, **changes):
    """Searches 2 learning rates x 2 lengths."""
    folder.mkdir()
    said, candidates = [], {}
    jobs = _members(method, folder, 'search', **changes)
    for i in (1, 0, 3, 2):
        job, lr, count = jobs[i], 1e-2 * (1 + i // 2), LENGTHS[i]
        name = f'lr_{lr:g}_p_{count}'
        job = replace(job, directory=folder / 'search' / name, hyper=Hyper(lr, 1e-2, 1e-2))
        candidates[name] = Candidate(job, count)
    search = Search(candidates, folder / 'search', options, said.append)
    return search, search.run(), said, folder / 'search' / 'plan.json'


@pytest.mark.parametrize('rungs', [(), (1,)])
def test_a_search_over_lengths_side_by_side_is_that_of_solo_runs(tmp_path, rungs):
    _, solo, said, path = _search('vpt_deep', tmp_path / 'a', Population(1, rungs=rungs))
    assert json.loads(path.read_text())['lengths'] == '1, 3 prompts: one candidate at a time'
    _, mixed, said, path = _search('vpt_deep', tmp_path / 'b', Population(4, rungs=rungs))
    text = '1, 3 prompts: trained together; shorter prompts are padded and masked'
    plan = json.loads(path.read_text())
    assert (plan['members'], plan['lengths']) == (4, text)
    told = 'search: 4 candidates, 4 at a time, because population.size asks for it'
    assert said[0] == f'{told}; {text}'
    assert mixed.name == solo.name
    for a, b in zip(mixed.rows, solo.rows, strict=True):
        assert {**a, 'seconds': 0} == {**b, 'seconds': 0}
        assert a['name'].endswith(f'_p_{a["num_prompts"]}')
    jax.tree.map(_close, mixed.fit.trainable, solo.fit.trainable)
    assert sum('dropped' in row['status'] for row in mixed.rows) == (2 if rungs else 0)


def test_lengths_that_can_not_share_a_program_have_populations_of_their_own(tmp_path, monkeypatch):
    groups, train = [], searches.fit_population

    def seen(jobs, *args):
        groups.append([s.program.classifier.facts.prompt_length for s in jobs])
        return train(jobs, *args)

    monkeypatch.setattr(searches, 'fit_population', seen)
    search, found, said, path = _search(
        'gated_vpt', tmp_path / 'a', Population(4), epochs=1, optim=Optim('sgd')
    )
    assert groups == [[1, 1], [3, 3]]
    text = '1, 3 prompts: a population for each number, because GatedVPT does not mask prompts'
    assert json.loads(path.read_text())['lengths'] == text
    assert said[0].startswith('search: 4 candidates, 2 at a time, because')
    assert said[0].endswith(text)
    assert all(row['status'] == 'done' for row in found.rows)
    ranked = sorted(search.candidates, key=lambda name: search._merit(name, 0.5), reverse=True)
    assert ranked == ['lr_0.01_p_1', 'lr_0.01_p_3', 'lr_0.02_p_1', 'lr_0.02_p_3']


def test_frozen_prompts_keep_lengths_apart(tmp_path):
    jobs = _members('vpt_deep', tmp_path)
    ones = [Candidate(job, count) for job, count in zip(jobs, LENGTHS, strict=True)]
    assert searches._apart(ones) == ''
    ones = [replace(one, job=replace(one.job, frozen={**one.job.frozen})) for one in ones]
    assert searches._apart(ones) == 'each number has frozen prompts of its own'


def test_a_program_with_more_prompts_differs_in_nothing_else():
    short, long = (_program(_model('vpt_deep', count)[0]) for count in (1, 4))
    assert lengthened(short, long) == long
    assert lengthened(replace(short, micro_batch=2), long) == long
    assert lengthened(replace(short, epochs=3), long) != long
