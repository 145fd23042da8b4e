"""VTAB-1k: 19 tasks. Each is searched on val (800 images train, 200 validate), trained on all 1000
images, and tested once a seed.

    jax-prompt benchmark --config vtab:method=vpt_deep,backbone=vit_b16_224 \
        --config.run.weights=FILE --results runs/vtab

`protocol=vpt` is the protocol of Visual Prompt Tuning (Jia et al. 2022, arXiv:2203.12119, and its
released code): SGD with momentum .9, 100 epochs, 10 of them warm-up, a cosine that moves once an
epoch, and batch 64 (`linear`: 1024). Its grid is learning rates times weight decays; the learning
rates are for a batch of 256 and are scaled by batch / 256. `vpt_deep` has a number of prompts for
each task. The accuracy on val after the last epoch decides. The protocol's seeds are 42, 44, 82,
100 and 800; papers report the mean of three, and so does this config. `protocol=adamw`, the
default, is smaller: AdamW, 4 x 2 candidates (5 x 2 for `spt_*`), 10 prompts.

`protocol=spt` is that of SPT (Wang et al. 2024, arXiv:2402.02382, and its released code): AdamW,
batch 32, short batches left out, 100 epochs, 10 of them warm-up, a cosine to 1e-8, a grid of
learning rates times weight decays of the head, 20 prompts a layer (shallow: 100), and the code's
own view of the images. `protocol=lion` is that of LION (AAAI 2024): Adam, batch 64, learning rate
1e-5 and no search; `method=lion` has tau .4.

`jax_prompt/data/vtab.py` says how images are shown. No accuracy has been measured with this config,
as the data of its tasks must be prepared first (docs/data.md).
"""

from ml_collections import ConfigDict

from jax_prompt.backbones.table import lookup
from jax_prompt.data.vtab import TASKS
from jax_prompt.methods import get_method
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.config_file import parse_arg, to_config_dict
from jax_prompt.runs.recipes import published

# Prompts a layer of VPT-deep, in the order of the tasks.
_COUNTS = (10, 10, 10, 1, 1, 50, 5, 100, 100, 10, 1, 50, 200, 100, 50, 10, 50, 200, 200)
_PROMPTS = dict(zip((task.name for task in TASKS), _COUNTS, strict=True))


def get_config(arg=None):
    """Returns the config of `method=...,backbone=...,protocol=...`."""
    chosen = parse_arg(arg, method='vpt_deep', backbone='vit_b16_224', protocol='adamw')
    method, protocol = get_method(chosen['method']).name, chosen['protocol']
    tag = lookup(chosen['backbone']).name.partition('.')[2]
    run = RunConfig(
        data=TASKS[0].name,
        backbone=chosen['backbone'],
        method=method,
        train_on='train+val',
        **published(method, protocol, 'VTAB', tag),
    )
    values = {
        'name': 'vtab',
        'tasks': tuple(task.name for task in TASKS),
        'seeds': (42, 44, 82),
        'num_prompts': _PROMPTS if protocol == 'vpt' and method == 'vpt_deep' else {},
        'protocol_view': protocol != 'spt',
    }
    return ConfigDict({**values, 'run': to_config_dict(run)}).lock()
