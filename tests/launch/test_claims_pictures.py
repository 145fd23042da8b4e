"""The pictures of docs/claims.md: what a point and a line are of, and that they are drawn."""

import importlib
import json
from pathlib import Path

import pytest

from jax_prompt.report.rows import Row, append

LAUNCH = Path(__file__).resolve().parents[2] / 'launch' / 'claims'


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.syspath_prepend(str(LAUNCH))
    return importlib.import_module('claims_pictures')


def _add(folder, method, seed, prompts, accuracy, trained=True):
    asked = {'num_prompts': prompts, 'train_prompts': trained}
    row = Row('t', method, 'vit_micro', seed, hyperparameters=asked, accuracy=accuracy)
    append(folder / 'rows', row)


def test_a_point_is_the_mean_over_the_seeds_of_one_number_of_prompts(pictures, tmp_path):
    for seed, accuracy in enumerate((0.40, 0.44)):
        _add(tmp_path, 'vpt_deep', seed, 5, accuracy)
    _add(tmp_path, 'vpt_deep', 0, 1, 0.3)
    _add(tmp_path, 'spt_deep', 0, 5, 0.5, trained=False)
    panels = pictures.make_panels(pictures.over_prompts(tmp_path), pictures.deviation)
    assert set(panels) == {'vit_micro, prompts trained', 'vit_micro, prompts frozen'}
    line = panels['vit_micro, prompts trained']['vpt_deep']
    assert line.x == [1.0, 5.0] and line.mean == pytest.approx([30.0, 42.0])
    assert line.below == line.above == pytest.approx((0.0, 8**0.5))  # n - 1 in the deviation


def test_a_curve_has_the_epochs_of_the_training_alone(pictures, tmp_path):
    pytest.importorskip('matplotlib')
    for method in ('vpt_deep', 'spt_deep'):
        for seed, accuracy in enumerate((0.4, 0.7)):
            run = tmp_path / f'runs/t/{method}-x/seed_{seed}/run'
            run.mkdir(parents=True)
            result = {'data': 't', 'backbone': 'vit_micro', 'method': method}
            (run / 'result.json').write_text(json.dumps(result))
            row = {'kind': 'epoch', 'stage': 'train', 'epoch': 2, 'val_accuracy': accuracy}
            rows = [{**row, 'epoch': 1, 'val_accuracy': None}, row, {**row, 'stage': 'search/a'}]
            (run / 'metrics.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows))
    panels = pictures.make_panels(pictures.over_epochs(tmp_path), pictures.reach)
    assert list(panels['vit_micro, t']) == ['vpt_deep', 'spt_deep']
    line = panels['vit_micro, t']['spt_deep']
    assert line.x == [2.0] and line.mean == pytest.approx([55.0])
    assert line.below == line.above == pytest.approx((15.0,))
    for kind in ('curves', 'prompts'):
        pictures.draw(panels, kind, tmp_path / f'{kind}.png')
        assert (tmp_path / f'{kind}.png').read_bytes().startswith(b'\x89PNG')
