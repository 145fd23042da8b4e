from dataclasses import replace

import pytest

from configs import fgvc, lion_suite, offline, offline_suite, packs, quickstart, tune, vtab
from jax_prompt.calibrate.spt import Calibration
from jax_prompt.data.tasks import TASKS
from jax_prompt.report import papers, rows
from jax_prompt.report.collect import CALIBRATION, options_of
from jax_prompt.runs.config import resolve
from jax_prompt.runs.recipes import published
from jax_prompt.suite.suite import resolve_benchmark


@pytest.mark.parametrize('method', ['linear', 'vpt_deep', 'spt_deep', 'lion', 'full'])
def test_the_suite_runs_each_task_as_the_offline_config_does(method):
    suite = resolve_benchmark(offline_suite.get_config(f'method={method}'))
    assert suite.tasks == tuple(task.name for task in TASKS)
    for task in suite.tasks:
        alone = resolve(offline.get_config(f'task={task},method={method}'))
        shown = replace(suite.run, data=alone.data, train_on=alone.train_on)
        assert shown == alone


def test_the_quickstart_differs_from_the_offline_config_in_what_it_spares():
    short = resolve(quickstart.get_config('task=orientation,method=lion'))
    long = resolve(offline.get_config('task=orientation,method=lion'))
    spared = ('lr', 'epochs', 'search', 'search_lrs', 'model')
    assert short != long
    assert replace(short, **{name: getattr(long, name) for name in spared}) == long
    assert short.epochs < long.epochs and not short.search and long.search


def test_own_tasks_run_as_one_of_them_alone_does():
    suite = resolve_benchmark(packs.get_config('method=full,backbone=vit_ti16_224'))
    alone = resolve(tune.get_config('method=full,backbone=vit_ti16_224'))
    assert replace(suite.run, train_on=alone.train_on) == alone
    assert suite.run.train_on == 'train+val' and suite.run.search


def test_learning_rates_of_the_published_grid_follow_the_batch():
    linear, deep = published('linear', 'vpt'), published('vpt_deep', 'vpt')
    assert (linear['batch_size'], deep['batch_size']) == (1024, 64)
    ratios = {a / b for a, b in zip(linear['search_lrs'], deep['search_lrs'], strict=True)}
    assert ratios == {16.0}
    assert (deep['tuner'], linear['tuner']) == ({'dropout_rate': 0.1}, {})
    with pytest.raises(ValueError, match="protocol is 'sgd'; allowed: 'vpt', 'adamw', 'spt'"):
        published('vpt_deep', 'sgd')


def _benchmark(config, arg):
    return resolve_benchmark(config.get_config(arg))


def test_spts_protocol_is_that_of_its_code():
    cub = _benchmark(fgvc, 'protocol=spt,method=spt_deep,backbone=vit_b16_224.mae')
    run = cub.config('fgvc/cub')
    assert (run.batch_size, run.epochs, run.drop_last, run.num_prompts) == (32, 100, True, 20)
    assert (run.optim.name, run.optim.min_lr, run.optim.per_epoch) == ('adamw', 1e-8, False)
    assert run.calibration.construction == 'random'
    assert {(0.05, 0.5), (0.001, 3.0)} <= {
        (hyper.lr, hyper.head_weight_decay) for hyper, _ in run.candidates.values()
    }
    assert {hyper.weight_decay for hyper, _ in run.candidates.values()} == {0.01}
    assert (run.augment.crop, run.augment.kernel, run.augment.flip) == ('resized', 'bicubic', True)
    assert (run.model.pool, run.input.crop_ratio) == ('mean_prompts', 0.875)
    shallow = _benchmark(vtab, 'protocol=spt,method=spt_shallow').config('vtab/dtd')
    assert (shallow.num_prompts, shallow.augment.crop, shallow.model.pool) == (100, 'none', '')
    assert (shallow.input.resize, shallow.input.crop_ratio) == ('bicubic', 1.0)
    moco = _benchmark(vtab, 'protocol=spt,backbone=vit_b16_224.moco_v3').config('vtab/dtd')
    assert moco.model.head_std == 0.01


def test_lions_protocol_is_that_of_its_paper_and_has_the_label_of_its_figures():
    run = _benchmark(vtab, 'protocol=lion,method=lion').config('vtab/dtd')
    assert (run.search, run.lr, run.batch_size, run.optim.b1) == (False, 1e-5, 64, 0.9)
    label = 'lion(shrink=1.0,tau=0.4)'
    assert rows.label('lion', options_of(run.to_dict())) == label
    own = [f for f in papers.load() if f.ours == label]
    assert len(own) == 66
    for name in ('lion', 'longtail', 'fewshot'):
        suite = _benchmark(lion_suite, f'benchmark={name}')
        assert suite.groups == papers.BENCHMARKS[name]
        assert options_of(suite.run.to_dict()) == {'shrink': 1.0, 'tau': 0.4}
    assert _benchmark(vtab, 'protocol=lion,method=linear').run.transform == {}
    with pytest.raises(ValueError, match="benchmark is 'cifar'; allowed: 'lion', 'longtail'"):
        lion_suite.get_config('benchmark=cifar')


def test_vpts_protocol_decays_and_starts_as_its_code_and_drops_maes_norm():
    run = _benchmark(vtab, 'protocol=vpt,backbone=vit_b16_224.mae').run
    assert run.optim.decay_all and run.model.head_init == 'kaiming'
    assert (run.model.norm, run.model.pool) == ('fresh', 'mean_prompts')
    other = _benchmark(vtab, 'protocol=vpt,backbone=vit_b16_224.google_in21k').run
    assert (other.model.norm, other.model.pool) == ('', '')
    assert not _benchmark(vtab, 'protocol=adamw').run.optim.decay_all


def test_labels_tell_how_prompts_are_built_and_whether_they_train():
    config = resolve(tune.get_config('method=spt_deep'))
    assert options_of(config.to_dict()) == {}
    assert {name: getattr(Calibration(), name) for name in CALIBRATION} == CALIBRATION
    changed = replace(
        config,
        calibration=Calibration(construction='kmeans', layers='last', faithful=True),
        train_prompts=False,
        calibrate_data='shapes',
    )
    assert rows.label('spt_deep', options_of(changed.to_dict())) == (
        'spt_deep(calibrate_data=shapes,construction=kmeans,faithful_calibration=True,'
        'layers=last,train_prompts=False)'
    )
    linear = replace(resolve(tune.get_config('method=linear')), train_prompts=False)
    assert options_of(linear.to_dict()) == {}
