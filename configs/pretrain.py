"""Pretrain a small backbone from random weights. The package ships four that were made so.

    jax-prompt train --config pretrain:backbone=swin_micro \
        --config.data=tiny_imagenet32.npz --workdir DIR

`data` is any classification set of small images. The shipped weights were trained on Tiny-ImageNet
at 32 px. `method=retrain`, the default, trains on labels; a ViT leaves out half of the patches of
each image, which halves the work.

`backbone=mae_micro,method=mae` pretrains a masked autoencoder without labels (He et al.,
arXiv:2111.06377): three quarters of the patches are masked, and a decoder of two blocks predicts
their normalised pixels. The accuracy on val is that of a linear head that trains beside, on
features through which no gradient passes.
"""

from dataclasses import replace

from jax_prompt.backbones.table import lookup
from jax_prompt.data.transforms import Augment
from jax_prompt.runs.config import Engine, Input, Model, RunConfig
from jax_prompt.runs.config_file import parse_arg, to_config_dict
from jax_prompt.train.masked import Masked
from jax_prompt.train.optim import Optim


def get_config(arg=None):
    """Returns the config of `backbone=...,method=...,epochs=...`."""
    chosen = parse_arg(arg, backbone='vit_micro', method='retrain', epochs='6')
    if chosen['method'] not in ('retrain', 'mae'):
        raise ValueError(f"method is {chosen['method']!r}; allowed: 'retrain', 'mae'")
    config = _supervised(chosen['backbone'], int(chosen['epochs']))
    return to_config_dict(_masked(config) if chosen['method'] == 'mae' else config)


def _supervised(backbone: str, epochs: int) -> RunConfig:
    is_vit = lookup(backbone).config.family == 'vit'
    return RunConfig(
        data='digits',
        backbone=backbone,
        method='retrain',
        lr=1.5e-3,
        weight_decay=0.05,
        head_weight_decay=0.05,
        epochs=epochs,
        batch_size=128,
        search=False,
        augment=Augment(crop='random', pad=4, flip=True),
        optim=Optim(name='adamw', warmup_epochs=1.0, clip_norm=1.0, label_smoothing=0.1),
        model=Model(remat='none', scan=False, patch_drop_rate=0.5 if is_vit else 0.0),
        input=Input(val_fraction=0.02),
        engine=Engine(steps_per_call=40, eval_batch_size=500, checkpoint_seconds=60.0),
    )


def _masked(config: RunConfig) -> RunConfig:
    return replace(
        config,
        lr=1e-3,
        masked=Masked(depth=2),
        optim=Optim(name='adamw', b2=0.95, warmup_epochs=1.0),
        model=replace(config.model, patch_drop_rate=0.75),
        engine=replace(config.engine, micro_batch=64),
    )
