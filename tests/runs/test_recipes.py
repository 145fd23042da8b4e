from dataclasses import replace

import pytest

from configs import offline, offline_suite, packs, quickstart, tune
from jax_prompt.data.tasks import TASKS
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
    with pytest.raises(ValueError, match="protocol is 'sgd'; allowed: 'vpt', 'adamw'"):
        published('vpt_deep', 'sgd')
