"""Your own tasks as one benchmark: each searched on val, then trained with three seeds.

    jax-prompt benchmark --config packs:method=vpt_deep,backbone=vit_ti16_224.augreg_in21k_ft_in1k \
        --config.tasks="('flowers.npz','textures/')" --config.run.weights=FILE --results DIR

A task is any value of a run's `data`: a packed .npz, a folder of class subfolders, 'tfds:NAME'. The
settings are those of configs/tune.py, which runs one task with one seed.
"""

from dataclasses import replace

from ml_collections import ConfigDict

from jax_prompt.methods import get_method
from jax_prompt.runs.config_file import parse_arg, to_config_dict
from jax_prompt.runs.recipes import own_images


def get_config(arg=None):
    """Returns the config of `method=...,backbone=...`."""
    chosen = parse_arg(arg, method='vpt_deep', backbone='vit_micro')
    method, tasks = get_method(chosen['method']).name, ('digits',)
    run = replace(own_images(tasks[0], method, chosen['backbone']), train_on='train+val')
    values = {'name': 'packs', 'seeds': (0, 1, 2), 'num_prompts': {}, 'protocol_view': True}
    return ConfigDict({**values, 'tasks': tasks, 'run': to_config_dict(run)}).lock()
