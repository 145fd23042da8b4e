import json
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.prompts import read_prototypes
from jax_prompt.runs.restore import restore
from jax_prompt.runs.run import run
from jax_prompt.train.checkpoint import Checkpoints
from jax_prompt.train.log import read_metrics
from jax_prompt.train.optim import Hyper


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
    built = [f'run/prototypes_p_{count}.safetensors', 'solo/prototypes.safetensors']
    np.testing.assert_array_equal(*(read_prototypes(tmp_path / name, '')[0] for name in built))
    restored = restore(tmp_path / 'run')
    assert restored.config.num_prompts == count
    assert restored.evaluate('test')['accuracy'] == got['test_accuracy']
    # A candidate, side by side and masked, is the run of its length on train.
    alone = run(replace(base, num_prompts=1), tmp_path / 'alone', quiet=True)
    assert got['search'][0]['val_accuracy'] == alone['val_accuracy']
    losses = [
        next(row['loss'] for row in read_metrics(tmp_path / name) if row['stage'] == stage)
        for name, stage in (
            ('run/metrics.jsonl', 'search/lr_0.01_p_1'),
            ('alone/metrics.jsonl', 'train'),
        )
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    one = restore(tmp_path / 'alone')
    like = {'state': one.program.init(one.trainable)._asdict(), 'best': one.trainable}
    checkpoints = Checkpoints(tmp_path / 'run/search/lr_0.01_p_1')
    saved = checkpoints.restore(like)[0]['state']['trainable']
    checkpoints.close()
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-5)
    jax.tree.map(close, saved, one.trainable)


def test_frozen_prompts_of_each_number_are_their_own(make_config, tmp_path):
    config = make_config(
        method='spt_shallow',
        epochs=1,
        search=True,
        search_lrs=(1e-2,),
        search_num_prompts=(1, 2),
        train_prompts=False,
        refit=False,
    )
    got = run(config, tmp_path / 'run', quiet=True)
    restored = restore(tmp_path / 'run')
    assert len(restored.frozen['tuner']['shared']['prompts']) == got['num_prompts']
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
