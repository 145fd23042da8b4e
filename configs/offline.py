"""The offline suite: the shipped `vit_micro` on tasks made on the spot, nothing downloaded.

    python launch/train.py --config configs/offline.py:task=count,method=vpt_deep --workdir DIR

Tasks: `digits` (handwritten), `shapes` (what), `count` (how many), `position` (where the light
falls), `orientation` (which way stripes run), `distance` (how far); see `jax_prompt/data/tasks.py`.
The learning rate is chosen on the validation split, then the method is trained on train + val and
tested once. `configs/quickstart.py` is shorter and does not choose.
"""

from jax_prompt.data.tasks import find_task
from jax_prompt.methods import get_method
from jax_prompt.train.config import parse_arg, to_config_dict
from jax_prompt.train.recipes import offline


def get_config(arg=None):
    """Returns the config of `task=...,method=...`."""
    chosen = parse_arg(arg, task='orientation', method='spt_deep')
    method = get_method(chosen['method']).name
    return to_config_dict(offline(find_task(chosen['task']).data, method))
