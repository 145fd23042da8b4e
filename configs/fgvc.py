"""FGVC: five fine-grained tasks, searched on val, trained on train, tested once a seed.

    python launch/benchmark.py --config configs/fgvc.py:method=vpt_deep,backbone=vit_b16_224 \
        --config.run.weights=FILE --results runs/fgvc

Where a set has no val, a tenth of its train is drawn once for all seeds; the papers' results are of
runs on the other nine tenths, and so are these. `protocol=vpt` is that of Visual Prompt Tuning
(Jia et al. 2022, arXiv:2203.12119), as in configs/vtab.py: SGD, 40 candidates, prompts of
`vpt_deep` by task. `protocol=adamw`, the default, is smaller. Images are shown as the rows of
`jax_prompt/data/fgvc.py` say: a random window and mirroring in training. No accuracy has been
measured with this config.
"""

from ml_collections import ConfigDict

from jax_prompt.data.fgvc import TASKS
from jax_prompt.methods import get_method
from jax_prompt.train.calibrate import Calibration
from jax_prompt.train.config import RunConfig, parse_arg, to_config_dict
from jax_prompt.train.optim import Optim

_LRS = (50.0, 25.0, 10.0, 5.0, 2.5, 1.0, 0.5, 0.25, 0.1, 0.05)  # for a batch of 256
_FULL_LRS = (0.005, 0.001, 0.0005, 0.0001)
_PROMPTS = {
    'fgvc/cub': 10,
    'fgvc/nabirds': 50,
    'fgvc/oxford_flowers': 5,
    'fgvc/stanford_dogs': 100,
    'fgvc/stanford_cars': 200,
}


def get_config(arg=None):
    """Returns the config of `method=...,backbone=...,protocol=...`."""
    chosen = parse_arg(arg, method='vpt_deep', backbone='vit_b16_224', protocol='adamw')
    method, protocol = get_method(chosen['method']).name, chosen['protocol']
    if protocol not in ('vpt', 'adamw'):
        raise ValueError(f"protocol is {protocol!r}; allowed: 'vpt', 'adamw'")
    vpt, full, deep = protocol == 'vpt', method == 'full', method == 'vpt_deep'
    batch = 1024 if vpt and method == 'linear' else 64
    if vpt:
        lrs = tuple(lr * batch / 256 for lr in (_FULL_LRS if full else _LRS))
        optim = Optim('sgd', momentum=0.9, warmup_epochs=10.0, per_epoch=True)
    else:
        lrs = (1e-5, 3e-5, 1e-4, 3e-4) if full else (1e-3, 3e-3, 1e-2, 3e-2)
        optim = Optim('adamw', warmup_epochs=10.0)
    run = RunConfig(
        data=TASKS[0].name,
        backbone=chosen['backbone'],
        method=method,
        epochs=100,
        batch_size=batch,
        search_lrs=lrs,
        search_weight_decays=(0.01, 0.001, 0.0001, 0.0) if vpt else (0.01, 0.0001),
        train_on='train',
        tuner={'dropout_rate': 0.1} if vpt and deep else {},
        calibration=Calibration(construction='mean'),
        optim=optim,
    )
    values = {
        'name': 'fgvc',
        'tasks': tuple(task.name for task in TASKS),
        'seeds': (42, 44, 82),
        'num_prompts': _PROMPTS if vpt and deep else {},
        'protocol_view': True,
    }
    return ConfigDict({**values, 'run': to_config_dict(run)}).lock()
