"""Pruning between two trainings, through a whole run."""

import json

import numpy as np
import pytest

from jax_prompt.runs import fitting
from jax_prompt.runs.restore import restore
from jax_prompt.runs.run import run
from jax_prompt.train.log import read_metrics

SHARES = {'token_share': 0.5, 'segment_share': 0.25}


def _config(make_config, **changes):
    options = {'method': 'e2vpt', 'num_prompts': 4, 'epochs': 1, 'prune': SHARES}
    return make_config(**{**options, **changes})


@pytest.mark.parametrize('search', [False, True])
def test_a_pruned_run_trains_again_with_what_is_kept(make_config, tmp_path, search):
    searching = {'search': True, 'search_lrs': (1e-2,)} if search else {}
    result = run(_config(make_config, **searching), tmp_path / 'run', quiet=True)
    kept = np.array(json.loads((tmp_path / 'run' / 'pruned.json').read_text())['kept'])
    assert kept.shape == (6, 4, 16)
    tokens = kept.any(axis=-1)
    assert (tokens.sum(axis=1) == 2).all()
    assert (kept[tokens].sum(axis=-1) == 12).all()
    assert result['checkpoint'] == 'pruned'
    assert result['num_trainable'] == 6 * (2 + 5) * 128 + 129 * 2
    stages = [row['stage'] for row in read_metrics(tmp_path / 'run' / 'metrics.jsonl')]
    assert stages[-1] == 'pruned'
    assert 'train' in stages
    done = restore(tmp_path / 'run')
    assert done.evaluate('test')['accuracy'] == result['test_accuracy']
    prompts = done.trainable['tuner']['layers']['prompts']
    assert prompts.shape == (6, 2, 128)
    if not search:
        path = tmp_path / 'run' / 'pruned.json'
        text = path.read_text()
        for torn in (text.replace('1', '0', 1), text.replace('0', '1', 1), '{"kept": []}', '{}'):
            path.write_text(torn)
            with pytest.raises(ValueError, match=r'pruned\.json (is damaged|lacks).*: remove it'):
                restore(tmp_path / 'run')


def test_a_killed_pruned_run_keeps_its_choice(make_config, tmp_path, monkeypatch):
    config = _config(make_config)
    real = fitting.pruned_program

    def dying(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, 'pruned_program', dying)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / 'run', quiet=True)
    before = (tmp_path / 'run' / 'pruned.json').read_text()
    monkeypatch.setattr(fitting, 'pruned_program', real)
    (tmp_path / 'run' / 'pruned.json').write_text(before.replace('1', '0', 1))
    with pytest.raises(ValueError, match=r'pruned\.json is damaged.*: remove it and start again'):
        run(config, tmp_path / 'run', quiet=True)
    (tmp_path / 'run' / 'pruned.json').write_text(before)
    monkeypatch.setattr(fitting, 'choose_kept', lambda *_: pytest.fail('chosen again'))
    result = run(config, tmp_path / 'run', quiet=True)
    assert (tmp_path / 'run' / 'pruned.json').read_text() == before
    monkeypatch.undo()
    assert run(config, tmp_path / 'whole', quiet=True)['test_loss'] == result['test_loss']


def test_what_has_nothing_to_prune_is_refused(make_config):
    with pytest.raises(ValueError, match='vpt_deep has nothing to prune'):
        _config(make_config, method='vpt_deep')
    with pytest.raises(ValueError, match=r'prune\.token_share is 1\.0'):
        _config(make_config, prune={'token_share': 1.0})
