"""The papers' claims in small: a method on tasks of 32 px, with the shipped micro backbones.

    jax-prompt benchmark --config claims:method=spt_deep,epochs=5 \
        --config.tasks="('digits','cifar10_jpg.npz')" --results runs/claims

docs/claims.md says what was measured so. Each task is searched on val among four learning rates up
to .3, then trained with five seeds on the training images alone, so that search and runs share one
compiled program. AdamW, batch 16, 8 prompts a block, warm-up in the first tenth. The papers train
100 epochs, which is the default here too; most of the page's figures took fewer. `linear` trains on
cached features and takes 100 epochs in any case. `lion` has small blocks, as in configs/offline.py.
"""

from ml_collections import ConfigDict

from jax_prompt.methods import get_method
from jax_prompt.runs.config import Engine, Model, RunConfig
from jax_prompt.runs.config_file import parse_arg, to_config_dict
from jax_prompt.train.optim import Optim

_LRS = (1e-2, 3e-2, 1e-1, 3e-1)


def get_config(arg=None):
    """Returns the config of `method=...,backbone=...,epochs=...`."""
    chosen = parse_arg(arg, method='spt_deep', backbone='vit_micro', epochs='100')
    method, tasks = get_method(chosen['method']).name, ('digits',)
    epochs = 100 if method == 'linear' else int(chosen['epochs'])
    run = RunConfig(
        data=tasks[0],
        backbone=chosen['backbone'],
        method=method,
        num_prompts=8,
        weight_decay=1e-4,
        head_weight_decay=1e-4,
        epochs=epochs,
        batch_size=16,
        search_lrs=(3e-3, *_LRS[:3]) if method == 'linear' else _LRS,
        train_on='train',
        refit=False,
        tuner={'channels': 8, 'width': 32} if method == 'lion' else {},
        optim=Optim(warmup_epochs=epochs / 10),
        model=Model(remat='none', scan=False),
        engine=Engine(num_devices=1, eval_batch_size=500, micro_batch=16, eval_every=1000),
    )
    values = {'name': 'claims', 'seeds': (0, 1, 2, 3, 4), 'num_prompts': {}, 'protocol_view': True}
    return ConfigDict({**values, 'tasks': tasks, 'run': to_config_dict(run)}).lock()
