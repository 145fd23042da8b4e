"""Pretrain a small backbone from random weights. The package ships three that were made so.

    jax-prompt train --config pretrain:backbone=swin_micro \
        --config.data=tiny_imagenet32.npz --workdir DIR

`data` is any classification set of small images. The shipped weights were trained on Tiny-ImageNet
at 32 px. A ViT leaves out half of the patches of each image; this halves the work.
"""

from jax_prompt.backbones.table import lookup
from jax_prompt.data.transforms import Augment
from jax_prompt.runs.config import Engine, Input, Model, RunConfig, parse_arg, to_config_dict
from jax_prompt.train.optim import Optim


def get_config(arg=None):
    """Returns the config of `backbone=...,epochs=...`."""
    chosen = parse_arg(arg, backbone='vit_micro', epochs='6')
    is_vit = lookup(chosen['backbone']).config.family == 'vit'
    config = RunConfig(
        data='digits',
        backbone=chosen['backbone'],
        method='retrain',
        lr=1.5e-3,
        weight_decay=0.05,
        head_weight_decay=0.05,
        epochs=int(chosen['epochs']),
        batch_size=128,
        search=False,
        augment=Augment(crop='random', pad=4, flip=True),
        optim=Optim(name='adamw', warmup_epochs=1.0, clip_norm=1.0, label_smoothing=0.1),
        model=Model(remat='none', scan=False, patch_drop_rate=0.5 if is_vit else 0.0),
        input=Input(val_fraction=0.02),
        engine=Engine(steps_per_call=40, eval_batch_size=500, checkpoint_seconds=60.0),
    )
    return to_config_dict(config)
