"""VTAB-1k: 19 tasks, searched on train800 -> val200, trained on the 1000, tested once a seed.

    python launch/benchmark.py --config configs/vtab.py:method=vpt_deep,backbone=vit_b16_224 \
        --config.run.weights=FILE --results runs/vtab

`protocol=vpt` is that of Visual Prompt Tuning (Jia et al. 2022, arXiv:2203.12119, and its released
code): SGD with momentum .9, 100 epochs, 10 of them warm-up, a cosine that moves once an epoch,
batch 64 (`linear`: 1024); learning rates for a batch of 256, scaled by batch / 256, times weight
decays; prompts of `vpt_deep` by task; the last epoch's accuracy on val decides. Its seeds are 42,
44, 82, 100 and 800; papers report the mean of three, as here. `protocol=adamw`, the default, is
smaller: AdamW, 4 x 2 candidates, 10 prompts.

Images are shown as VTAB's row in `jax_prompt/data/vtab.py` says. No accuracy has been measured with
this config: the data of its tasks has to be prepared first (docs/data.md).
"""

from ml_collections import ConfigDict

from jax_prompt.data.vtab import TASKS
from jax_prompt.methods import get_method
from jax_prompt.train.config import RunConfig, parse_arg, to_config_dict
from jax_prompt.train.recipes import published

# Prompts a layer of VPT-deep, in the order of the tasks.
_COUNTS = (10, 10, 10, 1, 1, 50, 5, 100, 100, 10, 1, 50, 200, 100, 50, 10, 50, 200, 200)
_PROMPTS = dict(zip((task.name for task in TASKS), _COUNTS, strict=True))


def get_config(arg=None):
    """Returns the config of `method=...,backbone=...,protocol=...`."""
    chosen = parse_arg(arg, method='vpt_deep', backbone='vit_b16_224', protocol='adamw')
    method, protocol = get_method(chosen['method']).name, chosen['protocol']
    run = RunConfig(
        data=TASKS[0].name,
        backbone=chosen['backbone'],
        method=method,
        train_on='train+val',
        **published(method, protocol),
    )
    values = {
        'name': 'vtab',
        'tasks': tuple(task.name for task in TASKS),
        'seeds': (42, 44, 82),
        'num_prompts': _PROMPTS if protocol == 'vpt' and method == 'vpt_deep' else {},
        'protocol_view': True,
    }
    return ConfigDict({**values, 'run': to_config_dict(run)}).lock()
