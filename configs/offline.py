"""The offline suite: the shipped `vit_micro` on tasks made on the spot, nothing downloaded.

    python launch/train.py --config configs/offline.py:task=count,method=vpt_deep --workdir DIR

Tasks: `digits` (handwritten), `shapes` (what), `count` (how many), `position` (where the light
falls), `orientation` (which way stripes run), `distance` (how far); see `jax_prompt/data/tasks.py`.
The learning rate is chosen on the validation split, then the method is trained on train + val and
tested once. `configs/quickstart.py` is shorter and does not choose.
"""

from jax_prompt.data.tasks import find_task
from jax_prompt.methods import get_method
from jax_prompt.train.calibrate import Calibration
from jax_prompt.train.config import Engine, Model, RunConfig, parse_arg, to_config_dict
from jax_prompt.train.optim import Optim

# Methods that train on cached features: an epoch takes a fraction of a second.
_CACHED = ('linear', 'mlp')
# Prototypes are several times as long as the random prompts of VPT, so their steps are too.
_GRIDS = {'full': (1e-4, 3e-4, 1e-3), 'spt_deep': (3e-2, 1e-1, 3e-1), 'spt_shallow': (3e-2, 1e-1)}


def get_config(arg=None):
    """Returns the config of `task=...,method=...`."""
    chosen = parse_arg(arg, task='orientation', method='spt_deep')
    method = get_method(chosen['method'])
    config = RunConfig(
        data=find_task(chosen['task']).data,
        backbone='vit_micro',
        method=method.name,
        num_prompts=8,
        weight_decay=1e-4,
        head_weight_decay=1e-4,
        epochs=100 if method.name in _CACHED else 20,
        batch_size=8,
        search_lrs=_GRIDS.get(method.name, (1e-2, 3e-2, 1e-1)),
        # Small images need small equilibrium blocks.
        tuner={'channels': 8, 'width': 32} if method.name == 'lion' else {},
        calibration=Calibration(construction='random'),
        optim=Optim(warmup_epochs=1.0),
        model=Model(scan=False, remat='none'),
        engine=Engine(num_devices=1, eval_batch_size=200),
    )
    return to_config_dict(config)
