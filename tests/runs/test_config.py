import json

import pytest

from configs import lion, offline, pretrain, quickstart, tune
from jax_prompt.methods import METHODS
from jax_prompt.runs import config as config_room
from jax_prompt.runs.config import RunConfig, resolve
from jax_prompt.runs.config_file import parse_arg


@pytest.mark.parametrize('method', [name for name in METHODS if name != 'retrain'])
def test_tune_resolves_for_every_method_and_survives_json(method):
    config = resolve(tune.get_config(f'method={method},backbone=vit_ti16_224'))
    assert (config.method, config.backbone) == (method, 'vit_ti16_224')
    assert resolve(json.loads(json.dumps(config.to_dict()))) == config


def test_the_other_configs_resolve():
    assert resolve(quickstart.get_config('method=linear')).data == 'digits'
    assert resolve(pretrain.get_config()).method == 'retrain'
    made = resolve(offline.get_config('task=count,method=linear'))
    assert (made.data, made.backbone, made.epochs) == ('scenes/count', 'vit_micro', 100)
    paper = resolve(lion.get_config())
    assert (paper.lr, paper.batch_size, paper.transform['tau']) == (1e-5, 64, 0.4)
    assert resolve(tune.get_config('method=lion')).transform['tau'] == 0.0


def test_configs_are_locked():
    with pytest.raises(AttributeError):
        tune.get_config().learning_rate = 1.0


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'learning_rate': 1.0}, 'unknown config key learning_rate'),
        ({'optim': {'momentun': 0.9}}, r'did you mean optim\.momentum'),
        ({'epochs': 'ten'}, "epochs is 'ten'"),
        ({'epochs': 0}, 'epochs is 0'),
        ({'lr': -1.0}, r'lr is -1\.0'),
        ({'data': ''}, 'data is empty'),
        ({'method': 'vpt'}, "no method 'vpt'"),
        ({'backbone': 'vit_b16'}, 'vit_b16_224'),
        ({'search_lrs': ()}, 'search_lrs'),
        ({'search_lrs': (0.01, 0.01)}, 'search_lrs is'),
        ({'search_weight_decays': (-0.1,)}, 'search_weight_decays is'),
        ({'calibration': {'construction': 'median'}}, 'median'),
    ],
)
def test_wrong_values_are_named(change, message):
    values = resolve(tune.get_config()).to_dict()
    with pytest.raises(ValueError, match=message):
        resolve(values | change)


def test_missing_keys_are_named():
    with pytest.raises(ValueError, match=r"lacks \['backbone', 'method'\]"):
        resolve({'data': 'digits'})


def test_whole_numbers_are_taken_for_floats():
    assert resolve(resolve(tune.get_config()).to_dict() | {'weight_decay': 0}).weight_decay == 0.0


def test_config_arguments():
    assert parse_arg('b=2', a='1', b='0') == {'a': '1', 'b': '2'}
    assert parse_arg(None, a='1') == {'a': '1'}
    with pytest.raises(ValueError, match="'c=3'"):
        parse_arg('c=3', a='1')


def test_run_config_prompts_option_reaches_methods_with_prompts_only():
    base = {'data': 'digits', 'backbone': 'vit_micro', 'search': False}
    assert RunConfig(method='linear', **base).tuner_options == {}
    assert RunConfig(method='vpt_deep', num_prompts=7, **base).tuner_options == {'num_prompts': 7}


def test_dtype_auto_becomes_that_of_the_device_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(config_room, 'product_dtype', lambda: ('bfloat16', 'a reason'))
    values = resolve(tune.get_config('method=linear')).to_dict()
    values['model']['dtype'] = 'auto'
    resolved = resolve(values)
    assert resolved.model.dtype == 'bfloat16'
    assert capsys.readouterr().out == 'model.dtype=auto: bfloat16, for a reason\n'
    assert resolve(resolved.to_dict()) == resolved  # what is saved asks for nothing more
