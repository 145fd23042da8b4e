"""The offline suite: the shipped `vit_micro` on tasks that are made locally. It downloads nothing.

    jax-prompt train --config offline:task=count,method=vpt_deep --workdir DIR

Tasks: `digits` (handwritten digits), `shapes` (which shape), `count` (how many balls are warm),
`position` (where the light lies), `orientation` (which way stripes run), `distance` (how far a ball
is); see `jax_prompt/data/tasks.py`. The run chooses the learning rate on the validation split. Then
it trains on train + val and tests once. `configs/quickstart.py` is faster: it skips the choice.
"""

from jax_prompt.data.tasks import find_task
from jax_prompt.methods import get_method
from jax_prompt.runs.config_file import parse_arg, to_config_dict
from jax_prompt.runs.recipes import offline


def get_config(arg=None):
    """Returns the config of `task=...,method=...`."""
    chosen = parse_arg(arg, task='orientation', method='spt_deep')
    method = get_method(chosen['method']).name
    return to_config_dict(offline(find_task(chosen['task']).data, method))
