import json
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.backbones.swin_config import SwinConfig
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.tree import merge, split
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier
from jax_prompt.nn.attention import attend
from jax_prompt.train import population
from jax_prompt.train.checkpoint import Checkpoints
from jax_prompt.train.config import RunConfig
from jax_prompt.train.lengths import cut, lengthened, obstacle, padded, with_length
from jax_prompt.train.log import read_metrics
from jax_prompt.train.loop import fit
from jax_prompt.train.members import Members
from jax_prompt.train.optim import Hyper, Optim
from jax_prompt.train.parallel import data_mesh, replicate
from jax_prompt.train.population import fit_population
from jax_prompt.train.restore import restore
from jax_prompt.train.run import run
from jax_prompt.train.search import Candidate, Search
from jax_prompt.train.sizing import Population, choose_size
from jax_prompt.train.stage import Data, Stage
from jax_prompt.train.step import Program

CONFIG = ViTConfig(16, 2, 2, 32, 4, 8)
LENGTHS = (1, 4, 2)
# Adam divides by the gradient's own size: rounding in a tiny gradient is a share of lr (3e-2).
_close = partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5)


def _data(count, seed=0):
    """Dark and bright images: classes that a few steps tell apart."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 2).astype(np.int32)
    images = rng.integers(0, 90, (count, 8, 8, 3)) + 150 * labels[:, None, None, None]
    return Data(images.astype(np.uint8), labels)


TRAIN, VAL = _data(10), _data(6, seed=1)


@cache
def _model(method, num_prompts, config=CONFIG, **options):
    options = get_method(method).with_prompts(options, num_prompts)
    classifier = build_classifier(config, get_method(method), 2, **options)
    params = classifier.init(jax.random.key(0))
    predicate = get_method(method).predicate(classifier.tuner, classifier.spec)
    return classifier, *split(params, predicate)


def _program(classifier, **changes):
    base = {'optim': Optim('adamw', warmup_epochs=0.5, clip_norm=0.5, ema_decay=0.5)}
    base |= {'epochs': 2, 'steps_per_epoch': 3, 'augment': Augment(), 'image_size': 8}
    return Program(classifier, mean=(0.5,) * 3, std=(0.5,) * 3, **base | changes)


def _members(method, tmp_path, where='members', lengths=LENGTHS, **changes):
    """Returns stages of unlike lengths, their initial trees, and the frozen tree."""
    stages, trees = [], []
    for i, length in enumerate(lengths):
        classifier, trainable, frozen = _model(method, length)
        own = {'hyper': Hyper(1e-2 * (i + 1), 1e-2 * i, 1e-2), 'seed': 0, 'val': VAL}
        own |= {'batch_size': 4, 'eval_batch_size': 6, 'checkpoint_seconds': 0.0, 'quiet': True}
        stages.append(
            Stage(
                name=f'{where}/{i}',
                directory=tmp_path / where / str(i),
                program=_program(classifier, **changes),
                train=TRAIN,
                metrics=tmp_path / 'metrics.jsonl',
                **own,
            )
        )
        trees.append(trainable)
    return stages, trees, frozen


def _prompts(tree):
    return np.asarray(tree['tuner']['shared' if 'shared' in tree['tuner'] else 'layers']['prompts'])


def _equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def _plain(q, k, v, bias):
    scores = jnp.einsum('bhtd,bhsd->bhts', q, k) / jnp.sqrt(q.shape[-1])
    return jnp.einsum('bhts,bhsd->bhtd', jax.nn.softmax(scores + bias, axis=-1), v)


@pytest.mark.parametrize('own', [False, True])  # whether each image has a bias of its own
def test_attention_with_a_bias_on_its_keys(own):
    q, k, v, g = jax.random.normal(jax.random.key(0), (4, 2, 3, 5, 4))
    bias = jax.random.normal(jax.random.key(1), (2, 5) if own else (5,))
    bias = bias.at[..., 1:3].set(-jnp.inf)
    whole = bias[:, None, None] if own else bias
    got, pull = jax.vjp(lambda *args: attend(*args, bias), q, k, v)
    want, pull_plain = jax.vjp(lambda *args: _plain(*args, whole), q, k, v)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    for a, b in zip(pull(g), pull_plain(g), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for masked in pull(g)[1:]:
        np.testing.assert_array_equal(masked[:, :, 1:3], 0.0)
    kept = np.array([0, 3, 4])
    rest = attend(q, k[:, :, kept], v[:, :, kept], bias[..., kept])
    np.testing.assert_allclose(got, rest, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('pool', ['cls', 'mean'])
@pytest.mark.parametrize('method', ['vpt_shallow', 'vpt_deep'])
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

    gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    grads, logits = gradient(tree, long, masked)
    want, wanted = gradient(own, short, frozen)
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(_prompts(grads)[..., 2:, :], 0.0)
    jax.tree.map(_close, cut(grads, own), want)
    unmasked, _ = gradient(tree, long, frozen)
    assert np.abs(_prompts(unmasked)[..., 2:, :]).max() > 1e-4


def test_trees_are_padded_and_cut():
    like = {'a': np.zeros((2, 5, 3)), 'b': np.zeros(()), 'c': np.zeros(4)}
    tree = {'a': np.ones((2, 2, 3)), 'b': np.float32(7), 'c': np.arange(4)}
    full = padded(tree, like)
    assert full['a'].shape == (2, 5, 3) and full['a'].sum() == 12 and full['a'][:, :2].all()
    _equal(cut(full, tree), tree)


@pytest.mark.parametrize('method', ['vpt_shallow', 'vpt_deep'])
def test_a_member_of_its_own_length_is_its_solo_run(tmp_path, method):
    micro = 2 if method == 'vpt_deep' else 0
    stages, trees, frozen = _members(method, tmp_path, micro_batch=micro)
    outcomes = fit_population(stages, trees, frozen)
    for stage, tree, outcome in zip(stages, trees, outcomes, strict=True):
        solo = replace(stage, name=f'solo_{stage.name}', directory=stage.directory / 'solo')
        want = fit(solo, tree, frozen)
        assert _prompts(outcome.fit.trainable).shape == _prompts(tree).shape
        jax.tree.map(_close, outcome.fit.trainable, want.trainable)
        jax.tree.map(_close, outcome.fit.best, want.best)
        assert outcome.fit.val_accuracy == want.val_accuracy
        kept = ('epoch', 'step', 'loss', 'grad_norm', 'train_accuracy', 'val_accuracy', 'val_loss')
        rows = [
            [[row[k] for k in kept] for row in read_metrics(stage.metrics) if row['stage'] == name]
            for name in (stage.name, solo.name)
        ]
        np.testing.assert_allclose(*rows, rtol=2e-5)
        # Its checkpoint is that of the solo run, by structure, shape and value.
        like = {'state': stage.program.init(tree)._asdict(), 'best': tree}
        saved = []
        for one in (stage, solo):
            checkpoints = Checkpoints(one.directory)
            saved.append(checkpoints.restore(like)[0])
            checkpoints.close()
        jax.tree.map(_close, *saved)


def test_padding_stays_zero_through_momentum_decay_and_averages(tmp_path):
    for optim in (Optim('adamw', ema_decay=0.5), Optim('sgd')):
        stages, trees, frozen = _members('vpt_deep', tmp_path, optim=optim)
        members = Members(stages, trees, frozen)
        state = members.put(members.initial)
        assert members.program == stages[1].program
        state, metrics = members.steps(state, *members.order(0))
        assert np.isfinite(metrics['loss']).all()
        leaves = [x for x in jax.tree.leaves(state) if x.shape[2:] == (4, 16)]  # [S, L, P, D]
        assert len(leaves) == (4 if optim.name == 'adamw' else 2)
        for leaf in leaves:
            assert np.abs(leaf[0, :, :1]).min() > 0.0
            np.testing.assert_array_equal(leaf[0, :, 1:], 0.0)
            np.testing.assert_array_equal(leaf[2, :, 2:], 0.0)


def test_a_solo_run_goes_on_from_a_short_members_checkpoint(tmp_path):
    stages, trees, frozen = _members('vpt_deep', tmp_path)
    fit_population([replace(stage, until=1) for stage in stages], trees, frozen)
    got = fit(stages[0], trees[0], frozen)
    alone = fit(replace(stages[0], directory=tmp_path / 'alone'), trees[0], frozen)
    assert got.earlier_seconds > 0.0
    jax.tree.map(_close, got.trainable, alone.trainable)


def test_a_killed_mixed_population_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    make = partial(_members, 'vpt_deep', tmp_path, optim=Optim('sgd'))
    stages, trees, frozen = make('whole')
    whole = fit_population(stages, trees, frozen)

    class Kill(Exception):
        pass

    saves, save = [], population.Record.save

    def dying(record, state):
        saves.append(1)
        if len(saves) > 4:  # within the saves of the second epoch
            raise Kill
        save(record, state)

    stages, trees, frozen = make()
    monkeypatch.setattr(population.Record, 'save', dying)
    with pytest.raises(Kill):
        fit_population(stages, trees, frozen)
    monkeypatch.setattr(population.Record, 'save', save)
    got = fit_population(stages, trees, frozen)
    for a, b in zip(got, whole, strict=True):
        _equal(a.fit.trainable, b.fit.trainable)
        _equal(a.fit.best, b.fit.best)
    assert got[0].fit.earlier_seconds > 0.0


def test_a_mixed_population_on_four_devices(tmp_path):
    stages, trees, frozen = _members('vpt_shallow', tmp_path)
    want = fit_population(stages, trees, frozen)
    mesh = data_mesh(4)
    stages, trees, frozen = _members('vpt_shallow', tmp_path, 'mesh', mesh=mesh)
    put = partial(replicate, mesh=mesh)
    got = fit_population(stages, [put(tree) for tree in trees], put(frozen))
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
    stages, trees, frozen = _members('gated_vpt', tmp_path)
    with pytest.raises(ValueError, match=r'\[1, 4, 2\] prompts, and GatedVPT does not mask'):
        Members(stages, trees, frozen)
    stages, trees, frozen = _members('vpt_deep', tmp_path)
    more = replace(stages[2], program=replace(stages[2].program, epochs=3))
    with pytest.raises(ValueError, match=r"differ in \['program'\]"):
        Members([*stages[:2], more], trees, frozen)


def _search(method, folder, options, **changes):
    """Searches 2 learning rates x 2 lengths."""
    folder.mkdir()
    said, candidates = [], {}
    for count in (2, 1):
        stages, trees, _ = _members(method, folder, 'search', (count, count), **changes)
        for stage, tree in zip(stages, trees, strict=True):
            name = f'lr_{stage.hyper.lr:g}_p_{count}'
            stage = replace(stage, name=name, directory=folder / 'search' / name)
            candidates[name] = Candidate(stage, tree, _model(method, 2)[2], count)
    search = Search(candidates, folder / 'search', options, said.append)
    return search, search.run(), said, folder / 'search' / 'plan.json'


@pytest.mark.parametrize('rungs', [(), (1,)])
def test_a_search_over_lengths_side_by_side_is_that_of_solo_runs(tmp_path, rungs):
    _, solo, said, path = _search('vpt_deep', tmp_path / 'a', Population(1, rungs=rungs))
    assert json.loads(path.read_text())['lengths'] == '1, 2 prompts: each as it is'
    _, mixed, said, path = _search('vpt_deep', tmp_path / 'b', Population(4, rungs=rungs))
    text = '1, 2 prompts: in one population, the shorter padded and masked'
    plan = json.loads(path.read_text())
    assert (plan['members'], plan['lengths']) == (4, text)
    assert said[0] == f'search: 4 of 4 side by side: asked for; {text}'
    assert mixed.name == solo.name
    for a, b in zip(mixed.rows, solo.rows, strict=True):
        assert {**a, 'seconds': 0} == {**b, 'seconds': 0}
        assert a['name'].endswith(f'_p_{a["num_prompts"]}')
    jax.tree.map(_close, mixed.fit.trainable, solo.fit.trainable)
    assert sum('dropped' in row['status'] for row in mixed.rows) == (2 if rungs else 0)


def test_lengths_that_can_not_share_a_program_have_populations_of_their_own(tmp_path):
    groups, fit_all = [], population.fit_population
    _, solo, *_ = _search('gated_vpt', tmp_path / 'a', Population(1))

    def seen(stages, *args):
        groups.append({s.program.classifier.tuner.prompt_length for s in stages})
        return fit_all(stages, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('jax_prompt.train.search.fit_population', seen)
        _, got, said, path = _search('gated_vpt', tmp_path / 'b', Population(4))
    assert groups == [{1}, {2}]
    text = '1, 2 prompts: a population for each number, since GatedVPT does not mask prompts'
    assert json.loads(path.read_text())['lengths'] == text
    assert said[0].startswith('search: 2 of 2 side by side') and said[0].endswith(text)
    assert [row['val_accuracy'] for row in got.rows] == [row['val_accuracy'] for row in solo.rows]


def test_ties_go_to_the_smaller_rate_and_then_to_fewer_prompts(tmp_path):
    search, *_ = _search('vpt_shallow', tmp_path / 'a', Population(4))
    ranked = sorted(search.candidates, key=lambda name: search._merit(name, 0.5), reverse=True)
    assert ranked == ['lr_0.01_p_1', 'lr_0.01_p_2', 'lr_0.02_p_1', 'lr_0.02_p_2']


def test_memory_is_that_of_the_longest(tmp_path):
    stages, trees, frozen = _members('vpt_shallow', tmp_path, lengths=(8, 4, 1))
    whole = choose_size(stages, trees, frozen, Population(size=3))
    assert whole.members == 3
    few = choose_size(stages, trees, frozen, Population(size=3, memory_mb=0.5 * whole.memory_mb))
    assert few.members < 3


def test_a_program_with_more_prompts_differs_in_nothing_else():
    short, long = (_program(_model('vpt_deep', count)[0]) for count in (1, 4))
    assert lengthened(short, long) == long
    assert lengthened(replace(short, micro_batch=2), long) == long
    assert lengthened(replace(short, epochs=3), long) != long


def test_a_run_searches_the_number_of_prompts(make_config, tmp_path):
    grids = {'search_lrs': (1e-2,), 'search_num_prompts': (1, 3)}
    base = make_config(method='spt_deep', epochs=1, population={'size': 2})
    config = replace(base, search=True, **grids)
    got = run(config, tmp_path / 'run', quiet=True)
    count = got['num_prompts']
    assert [row['num_prompts'] for row in got['search']] == [1, 3]
    assert [row['name'] for row in got['search']] == ['lr_0.01_p_1', 'lr_0.01_p_3']
    assert 'masked' in json.loads((tmp_path / 'run/search/plan.json').read_text())['lengths']
    # The refit is the run of that length on train + val, calibrated for it.
    solo = replace(base, num_prompts=count, train_on='train+val')
    want = run(solo, tmp_path / 'solo', quiet=True)
    assert got['num_trainable'] == want['num_trainable']
    assert got['test_loss'] == pytest.approx(want['test_loss'], rel=1e-5)
    built = [f'run/prototypes_p_{count}.npz', 'solo/prototypes.npz']
    np.testing.assert_array_equal(*(np.load(tmp_path / name)['prompts'] for name in built))
    restored = restore(tmp_path / 'run')
    assert restored.config.num_prompts == count
    assert restored.evaluate('test')['accuracy'] == got['test_accuracy']
    # Candidates, side by side and masked, are the runs of their lengths on train.
    for row in got['search']:
        one = replace(base, num_prompts=row['num_prompts'])
        alone = run(one, tmp_path / row['name'], quiet=True)
        assert row['val_accuracy'] == alone['val_accuracy']
        (steps,) = {r['step'] for r in read_metrics(tmp_path / 'run/metrics.jsonl')[:2]}
        losses = [
            next(r['loss'] for r in read_metrics(folder / 'metrics.jsonl') if r['stage'] == stage)
            for folder, stage in (
                (tmp_path / 'run', f'search/{row["name"]}'),
                (tmp_path / row['name'], 'train'),
            )
        ]
        assert steps == 3 and losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_frozen_prompts_of_each_number_are_their_own(make_config, tmp_path):
    config = make_config(
        method='spt_shallow',
        epochs=1,
        population={'size': 2},
        search=True,
        search_lrs=(1e-3, 1e-2),
        search_num_prompts=(1, 2),
        train_prompts=False,
        refit=False,
    )
    got = run(config, tmp_path / 'run', quiet=True)
    plan = json.loads((tmp_path / 'run/search/plan.json').read_text())
    assert 'frozen prompts of its own' in plan['lengths']
    restored = restore(tmp_path / 'run')
    assert _prompts(restored.frozen).shape[0] == got['num_prompts']
    assert restored.evaluate('test')['loss'] == pytest.approx(got['test_loss'], rel=1e-6)


def test_wrong_grids_of_lengths_are_named():
    base = {'data': 'digits', 'backbone': 'vit_micro', 'search_lrs': (1e-2,)}
    with pytest.raises(ValueError, match=r'method linear has no prompts; .*vpt_shallow, vpt_deep'):
        RunConfig(method='linear', search_num_prompts=(1, 2), **base)
    for grid in ((2, 2), (0, 1)):
        with pytest.raises(ValueError, match=r'search_num_prompts is .* different values from 1'):
            RunConfig(method='vpt_deep', search_num_prompts=grid, **base)
    config = RunConfig(method='vpt_deep+lora', search_num_prompts=(5, 10), **base)
    assert list(config.candidates) == ['lr_0.01_p_5', 'lr_0.01_p_10']
    assert (config.lengths, replace(config, search=False).lengths) == ((5, 10), (10,))
    decays = replace(config, search_weight_decays=(0.0,))
    assert decays.candidates['lr_0.01_wd_0_p_5'] == (Hyper(1e-2, 0.0, 0.0), 5)
