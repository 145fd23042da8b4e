"""Five methods on two tasks with the shipped `vit_micro`. It downloads nothing.

    jax-prompt train --config quickstart:task=digits,method=spt_deep --workdir DIR

Tasks: `digits`, `orientation`, and the others of `configs/offline.py`. A run trains once on 800
images. Its learning rate was chosen on the validation splits beforehand; `search=True` repeats that
choice. On one core `vpt_deep` took 24 seconds on `digits` and 40 on `orientation`, including
imports and compilation.
"""

from dataclasses import replace

from jax_prompt.data.tasks import find_task
from jax_prompt.runs.config_file import parse_arg, to_config_dict
from jax_prompt.runs.recipes import offline

# Epochs and learning rate. An epoch of `linear` trains on cached features and costs next to
# nothing; one of `lion` also computes the gradient of the image and costs twice one of prompts.
_RECIPES = {
    'linear': (60, 1e-1),
    'vpt_deep': (10, 3e-2),
    'spt_deep': (10, 1e-1),
    'dvpt_deep': (10, 1e-1),
    'lion': (4, 1e-1),
}
_MOST_EPOCHS = {'digits': 6}  # of methods that run the network: digits need fewer


def get_config(arg=None):
    """Returns the config of `task=...,method=...`."""
    chosen = parse_arg(arg, task='digits', method='spt_deep')
    method = chosen['method']
    epochs, lr = _RECIPES.get(method, (10, 1e-2))
    if method != 'linear':
        epochs = min(epochs, _MOST_EPOCHS.get(chosen['task'], epochs))
    config = replace(
        offline(find_task(chosen['task']).data, method),
        lr=lr,
        epochs=epochs,
        search=False,
        search_lrs=(lr / 3, lr, 3 * lr),
    )
    return to_config_dict(config)
