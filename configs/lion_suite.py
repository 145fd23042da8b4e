"""LION's benchmarks with the paper's recipe: its seven tasks, long-tailed CIFAR, few-shot tasks.

    jax-prompt benchmark --config lion_suite:benchmark=longtail,method=lion \\
        --config.run.weights=FILE --results runs/longtail

Wang et al., "LION: Implicit Vision Prompt Tuning" (AAAI 2024): `benchmark=lion` are the tasks of
Tables 1 and 2, `longtail` and `fewshot` those of Table 3. Adam with a momentum of .9, batch 64,
learning rate 1e-5, and tau .4 with `method=lion`. `method=vpt_pad` is what the paper calls VPT on a
ResNet. The paper names neither epochs nor a schedule, so this config takes 100 epochs and a cosine.
No accuracy has been measured with this config.
"""

from ml_collections import ConfigDict

from jax_prompt.backbones.table import lookup
from jax_prompt.methods import get_method
from jax_prompt.report.papers import BENCHMARKS
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.config_file import parse_arg, to_config_dict
from jax_prompt.runs.recipes import published

_NAMES = ('lion', 'longtail', 'fewshot')


def get_config(arg=None):
    """Returns the config of `benchmark=...,method=...,backbone=...`."""
    chosen = parse_arg(arg, benchmark='lion', method='lion', backbone='resnet50')
    name, method = chosen['benchmark'], get_method(chosen['method']).name
    if name not in _NAMES:
        raise ValueError(f'benchmark is {name!r}; allowed: {", ".join(map(repr, _NAMES))}')
    tasks = tuple(task for own in BENCHMARKS[name].values() for task in own)
    tag = lookup(chosen['backbone']).name.partition('.')[2]
    run = RunConfig(
        data=tasks[0],
        backbone=chosen['backbone'],
        method=method,
        train_on='train',
        **published(method, 'lion', 'LION', tag),
    )
    values = {'name': name, 'tasks': tasks, 'seeds': (0, 1, 2), 'num_prompts': {}}
    return ConfigDict({**values, 'protocol_view': True, 'run': to_config_dict(run)}).lock()
