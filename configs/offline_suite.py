"""The offline suite as one benchmark: the shipped `vit_micro` on six tasks that are made locally.

    jax-prompt benchmark --config offline_suite:method=vpt_deep --results DIR

The settings are those of configs/offline.py, which runs one of these tasks with one seed. The
benchmark chooses the learning rate on val. Then it trains on train + val with three seeds.
"""

from dataclasses import replace

from ml_collections import ConfigDict

from jax_prompt.data.tasks import TASKS
from jax_prompt.methods import get_method
from jax_prompt.runs.config_file import parse_arg, to_config_dict
from jax_prompt.runs.recipes import offline

_TASKS = tuple(task.name for task in TASKS)


def get_config(arg=None):
    """Returns the config of `method=...`."""
    method = get_method(parse_arg(arg, method='vpt_deep')['method']).name
    run = replace(offline(_TASKS[0], method), train_on='train+val')
    values = {'name': 'offline', 'seeds': (0, 1, 2), 'num_prompts': {}, 'protocol_view': True}
    return ConfigDict({**values, 'tasks': _TASKS, 'run': to_config_dict(run)}).lock()
