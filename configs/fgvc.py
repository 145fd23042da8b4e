"""FGVC: five fine-grained tasks. Each is searched on val, trained on train, tested once a seed.

    jax-prompt benchmark --config fgvc:method=vpt_deep,backbone=vit_b16_224 \
        --config.run.weights=FILE --results runs/fgvc

If a set has no val, a tenth of its train becomes val. This tenth is drawn once for all seeds. Runs
train on the other nine tenths, as in the papers. `protocol=vpt` is the protocol of Visual Prompt
Tuning (Jia et al. 2022, arXiv:2203.12119), as in configs/vtab.py: SGD, 40 candidates, and a number
of prompts for each task with `vpt_deep`. `protocol=spt` and `protocol=lion` are those of SPT and
LION, as in configs/vtab.py; SPT shows a random window of any size (bicubic) and mirrors it.
`protocol=adamw`, the default, is smaller. The rows of
`jax_prompt/data/fgvc.py` say how images are shown: training takes a random window and mirrors it.
No accuracy has been measured with this config.
"""

from ml_collections import ConfigDict

from jax_prompt.backbones.table import lookup
from jax_prompt.data.fgvc import TASKS
from jax_prompt.methods import get_method
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.config_file import parse_arg, to_config_dict
from jax_prompt.runs.recipes import published

# Prompts a layer of VPT-deep.
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
    tag = lookup(chosen['backbone']).name.partition('.')[2]
    run = RunConfig(
        data=TASKS[0].name,
        backbone=chosen['backbone'],
        method=method,
        train_on='train',
        **published(method, protocol, 'FGVC', tag),
    )
    values = {
        'name': 'fgvc',
        'tasks': tuple(task.name for task in TASKS),
        'seeds': (42, 44, 82),
        'num_prompts': _PROMPTS if protocol == 'vpt' and method == 'vpt_deep' else {},
        'protocol_view': protocol != 'spt',
    }
    return ConfigDict({**values, 'run': to_config_dict(run)}).lock()
