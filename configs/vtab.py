"""VTAB-1k: 19 tasks, searched on train800 -> val200, trained on the 1000, tested once a seed.

    python launch/benchmark.py --config configs/vtab.py:method=vpt_deep,backbone=vit_b16_224 \
        --config.run.weights=FILE --results runs/vtab

`protocol=vpt` is that of Visual Prompt Tuning (Jia et al. 2022, arXiv:2203.12119, and its released
code): SGD with momentum .9, 100 epochs, 10 of them warm-up, a cosine that moves once an epoch,
batch 64 (`linear`: 1024); learning rates for a batch of 256, scaled by batch / 256, times weight
decays; prompts of `vpt_deep` by task; the last epoch's accuracy on val decides. Its seeds are 42,
44, 82, 100 and 800; papers report the mean of three, as here. `protocol=adamw`, the default, is
smaller: AdamW, 4 x 2 candidates, 10 prompts.

Images are shown as VTAB's row in `jax_prompt/data/vtab.py` says. No accuracy has been measured with
this config: the data of its tasks has to be prepared first (docs/data.md).
"""

from ml_collections import ConfigDict

from jax_prompt.data.vtab import TASKS
from jax_prompt.methods import get_method
from jax_prompt.train.calibrate import Calibration
from jax_prompt.train.config import RunConfig, parse_arg, to_config_dict
from jax_prompt.train.optim import Optim

_DECAYS = (0.01, 0.001, 0.0001, 0.0)
_LRS = (50.0, 25.0, 10.0, 5.0, 2.5, 1.0, 0.5, 0.25, 0.1, 0.05)
_FULL_LRS = (0.005, 0.001, 0.0005, 0.0001)
# Prompts a layer of VPT-deep, in the order of the tasks.
_PROMPTS = (10, 10, 10, 1, 1, 50, 5, 100, 100, 10, 1, 50, 200, 100, 50, 10, 50, 200, 200)


def _vpt(method: str) -> tuple[dict, dict]:
    """Returns the settings of the protocol, and the number of prompts by task."""
    batch = 1024 if method == 'linear' else 64
    lrs = _FULL_LRS if method == 'full' else _LRS
    settings = {
        'batch_size': batch,
        'search_lrs': tuple(lr * batch / 256 for lr in lrs),
        'search_weight_decays': _DECAYS,
        'optim': Optim('sgd', momentum=0.9, warmup_epochs=10.0, per_epoch=True),
    }
    if method == 'vpt_deep':
        names = (task.name for task in TASKS)
        return {**settings, 'tuner': {'dropout_rate': 0.1}}, dict(zip(names, _PROMPTS, strict=True))
    return settings, {}


def _adamw(method: str) -> dict:
    lrs = (1e-5, 3e-5, 1e-4, 3e-4) if method == 'full' else (1e-3, 3e-3, 1e-2, 3e-2)
    return {
        'batch_size': 64,
        'search_lrs': lrs,
        'search_weight_decays': (0.01, 0.0001),
        'optim': Optim('adamw', warmup_epochs=10.0),
    }


def get_config(arg=None):
    """Returns the config of `method=...,backbone=...,protocol=...`."""
    chosen = parse_arg(arg, method='vpt_deep', backbone='vit_b16_224', protocol='adamw')
    method, protocol = get_method(chosen['method']).name, chosen['protocol']
    if protocol not in ('vpt', 'adamw'):
        raise ValueError(f"protocol is {protocol!r}; allowed: 'vpt', 'adamw'")
    settings, prompts = _vpt(method) if protocol == 'vpt' else (_adamw(method), {})
    run = RunConfig(
        data=TASKS[0].name,
        backbone=chosen['backbone'],
        method=method,
        epochs=100,
        train_on='train+val',
        calibration=Calibration(construction='mean'),
        **settings,
    )
    values = {
        'name': 'vtab',
        'tasks': tuple(task.name for task in TASKS),
        'seeds': (42, 44, 82),
        'num_prompts': prompts,
        'protocol_view': True,
    }
    return ConfigDict({**values, 'run': to_config_dict(run)}).lock()
