"""The offline suite as one benchmark: the shipped `vit_micro` on six tasks made on the spot.

    python launch/benchmark.py --config configs/offline_suite.py:method=vpt_deep --results DIR

The settings are those of configs/offline.py, which runs one of these tasks with one seed: the
learning rate is chosen on val, then the method is trained on train + val with three seeds.
"""

from ml_collections import ConfigDict

from jax_prompt.data.tasks import TASKS
from jax_prompt.methods import get_method
from jax_prompt.train.calibrate import Calibration
from jax_prompt.train.config import Engine, Model, RunConfig, parse_arg, to_config_dict
from jax_prompt.train.optim import Optim

_TASKS = tuple(task.name for task in TASKS)
# Methods that train on cached features: an epoch takes a fraction of a second.
_CACHED = ('linear', 'mlp')


def get_config(arg=None):
    """Returns the config of `method=...`."""
    method = get_method(parse_arg(arg, method='vpt_deep')['method']).name
    run = RunConfig(
        data=_TASKS[0],
        backbone='vit_micro',
        method=method,
        num_prompts=8,
        weight_decay=1e-4,
        head_weight_decay=1e-4,
        epochs=100 if method in _CACHED else 20,
        batch_size=16,
        search_lrs=(1e-4, 3e-4, 1e-3) if method == 'full' else (3e-3, 1e-2, 3e-2),
        train_on='train+val',
        calibration=Calibration(construction='mean'),
        optim=Optim(warmup_epochs=1.0),
        model=Model(scan=False, remat='none'),
        engine=Engine(num_devices=1, eval_batch_size=200),
    )
    values = {'name': 'offline', 'seeds': (0, 1, 2), 'num_prompts': {}, 'protocol_view': True}
    return ConfigDict({**values, 'tasks': _TASKS, 'run': to_config_dict(run)}).lock()
