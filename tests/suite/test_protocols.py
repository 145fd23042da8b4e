"""What a benchmark asks of its tasks, without running them."""

from dataclasses import replace
from pathlib import Path

import pytest

from configs import fgvc, offline_suite, vtab
from jax_prompt.data.fgvc import VIEW as FGVC
from jax_prompt.data.vtab import VIEW as VTAB
from jax_prompt.suite.suite import Benchmark, resolve_benchmark, units_of


def test_a_protocol_shows_images_its_own_way(make_config):
    config = make_config(data='digits', search=True, search_lrs=(1e-2,))
    config = replace(config, train_on='train+val')
    tasks = ('vtab/dtd', 'fgvc/cub', 'digits', 'fewshot8/food101')
    own = Benchmark('mine', tasks, config, num_prompts={'fgvc/cub': 7})
    dtd, cub, digits, food = map(own.config, tasks)
    assert (dtd.input.resize, dtd.input.crop, dtd.augment.flip) == ('bilinear_tf', 'squash', False)
    assert dtd.model.mean == VTAB.mean
    assert (cub.augment.crop, cub.augment.flip, cub.input.crop) == ('random', True, 'centre')
    assert (cub.num_prompts, dtd.num_prompts, cub.model.std) == (7, 2, FGVC.std)
    assert replace(digits, data=config.data) == config
    assert (food.train_on, food.refit) == ('train', False)
    plain = replace(own, protocol_view=False)
    assert plain.config('vtab/dtd') == replace(config, data='vtab/dtd')
    folders = [unit.folder for unit in units_of(own, Path('r'))]
    assert len(set(folders)) == 4 * 4


def test_a_subset_of_any_data_is_a_task(make_config, pack):
    config = replace(make_config(), train_on='train+val')
    few, tail = f'fewshot2/{pack}', f'longtail3/{pack}'
    benchmark = Benchmark('mine', (few, tail), config)
    assert benchmark.config(few).train_on == 'train'  # val is no part of two images a class
    assert benchmark.config(tail).train_on == 'train+val'
    with pytest.raises(ValueError, match=r"task is 'nowhere\.npz'"):
        Benchmark('mine', ('fraction10/nowhere.npz',), config)


@pytest.mark.parametrize('task', ['vtab/dttd', 'fewshot8/vtab/dttd'])
def test_wrong_benchmarks_are_named(make_config, task):
    config = make_config()
    with pytest.raises(ValueError, match=r"nearest: \['vtab/dtd'"):
        Benchmark('mine', (task,), config)
    for changes in ({'tasks': ()}, {'tasks': ('digits', 'digits')}):
        with pytest.raises(ValueError, match='at least one, each once'):
            Benchmark('mine', **changes, run=config)
    with pytest.raises(ValueError, match='seeds are'):
        Benchmark('mine', ('digits',), config, seeds=(1, 1))
    with pytest.raises(ValueError, match=r"has the keys .*this one \['name'\]"):
        resolve_benchmark({'name': 'mine'})
    with pytest.raises(ValueError, match=r"train_on is 'test'"):
        make_config(train_on='test')


def test_the_configs_give_the_protocols():
    config = resolve_benchmark(vtab.get_config('protocol=vpt'))
    runs = {task: config.config(task) for task in config.tasks}
    assert len(runs) == 19
    assert config.groups['Structured'][0] == 'clevr_count'
    for run_ in runs.values():
        assert len(run_.candidates) == 40
        assert max(run_.search_lrs) == 50 * 64 / 256
        assert (run_.optim.name, run_.optim.per_epoch, run_.optim.warmup_epochs) == (
            'sgd',
            True,
            10,
        )
        assert (run_.epochs, run_.train_on, run_.input.resize) == (100, 'train+val', 'bilinear_tf')
    prompts = {'caltech101': 10, 'svhn_cropped': 50, 'eurosat': 100, 'smallnorb_azimuth': 200}
    assert {name: runs[f'vtab/{name}'].num_prompts for name in prompts} == prompts
    hyper, _ = runs['vtab/dtd'].candidates['lr_12.5_wd_0.01']
    assert hyper == (12.5, 0.01, 0.01)
    linear = resolve_benchmark(vtab.get_config('protocol=vpt,method=linear'))
    assert max(linear.run.search_lrs) == 50 * 1024 / 256
    assert not linear.num_prompts
    full = resolve_benchmark(fgvc.get_config('protocol=vpt,method=full')).config('fgvc/cub')
    assert (len(full.candidates), full.train_on, full.augment.crop) == (16, 'train', 'random')
    deep = resolve_benchmark(fgvc.get_config('protocol=vpt'))
    assert deep.config('fgvc/stanford_cars').num_prompts == 200
    for module in (vtab, fgvc):
        # Prototypes are longer than random prompts: the grid of spt_* has one rate more.
        for method, count in (('vpt_deep', 8), ('spt_deep', 10)):
            small = resolve_benchmark(module.get_config(f'method={method}'))
            assert len(small.config(small.tasks[0]).candidates) == count
        with pytest.raises(ValueError, match="protocol is 'x'"):
            module.get_config('protocol=x')
    assert len(units_of(resolve_benchmark(offline_suite.get_config()), Path('r'))) == 6 * 4


def test_a_path_that_is_too_long_for_a_name_gets_a_folder(make_config, tmp_path):
    deep = tmp_path.joinpath(*[name * 60 for name in 'abcde'])
    for name in ('one', 'two'):
        (deep / name).mkdir(parents=True)
    tasks = (str(deep / 'one'), str(deep / 'two'))
    units = units_of(Benchmark('mine', tasks, make_config(), (0,)), tmp_path / 'r')
    for unit, name in zip(units, ('one', 'two'), strict=True):
        unit.folder.mkdir(parents=True)
        assert name in unit.folder.parts[-3]
    with pytest.raises(ValueError, match='task is'):
        Benchmark('mine', ('x' * 300,), make_config())
