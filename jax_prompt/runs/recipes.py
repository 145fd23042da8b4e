"""Settings that configs share: the offline suite, images of one's own, published benchmarks."""

from typing import Any

from jax_prompt.calibrate.spt import Calibration
from jax_prompt.core.colour import IMAGENET_MEAN, IMAGENET_STD
from jax_prompt.data.transforms import Augment
from jax_prompt.runs.config import RunConfig
from jax_prompt.train.optim import Optim
from jax_prompt.train.options import Engine, Input, Model

# Methods that train on cached features: an epoch takes a fraction of a second.
_CACHED = ('linear', 'mlp')
# Prototypes are several times as long as the random prompts of VPT, so their steps are too.
_OFFLINE_LRS = {
    'full': (1e-4, 3e-4, 1e-3),
    'spt_deep': (3e-2, 1e-1, 3e-1),
    'spt_shallow': (3e-2, 1e-1, 3e-1),
}

# Three values, an octave and a half apart, around what worked.
_OWN_LRS = {
    'linear': (3e-4, 1e-3, 3e-3),
    'full': (1e-5, 3e-5, 1e-4),
    'spt_deep': (3e-3, 1e-2, 3e-2, 1e-1),
    'spt_shallow': (3e-3, 1e-2, 3e-2, 1e-1),
}

# Of published benchmarks under AdamW.
_LRS = (1e-3, 3e-3, 1e-2, 3e-2)
_PUBLISHED_LRS = {name: (1e-3, 3e-3, 1e-2, 3e-2, 1e-1) for name in ('spt_deep', 'spt_shallow')}

# Visual Prompt Tuning (Jia et al. 2022, arXiv:2203.12119) and its released code; learning rates are
# for a batch of 256.
_VPT_LRS = (50.0, 25.0, 10.0, 5.0, 2.5, 1.0, 0.5, 0.25, 0.1, 0.05)
_VPT_FULL_LRS = (0.005, 0.001, 0.0005, 0.0001)
_VPT_DECAYS = (0.01, 0.001, 0.0001, 0.0)


def offline(data: str, method: str) -> RunConfig:
    """Returns the run of a method that tunes the shipped `vit_micro` to one of the drawn tasks.

    Args:
      data: the task's data.
      method: its name.
    """
    return RunConfig(
        data=data,
        backbone='vit_micro',
        method=method,
        num_prompts=8,
        weight_decay=1e-4,
        head_weight_decay=1e-4,
        epochs=100 if method in _CACHED else 20,
        batch_size=8,
        search_lrs=_OFFLINE_LRS.get(method, (1e-2, 3e-2, 1e-1)),
        # Small images need small equilibrium blocks.
        tuner={'channels': 8, 'width': 32} if method == 'lion' else {},
        optim=Optim(warmup_epochs=1.0),
        engine=Engine(num_devices=1, eval_batch_size=200),
    )


def own_images(data: str, method: str, backbone: str) -> RunConfig:
    """Returns the run of a method that tunes a pretrained backbone to images of one's own.

    Args:
      data: a folder, a packed file or another source.
      method: its name.
      backbone: `arch` or `arch.tag`.
    """
    linear = method == 'linear'
    return RunConfig(
        data=data,
        backbone=backbone,
        method=method,
        num_prompts=10,
        weight_decay=1e-4,
        head_weight_decay=0.1 if linear else 1e-4,
        epochs=30 if linear else 10,
        batch_size=32,
        search_lrs=_OWN_LRS.get(method, (1e-3, 3e-3, 1e-2)),
        optim=Optim(name='adamw', warmup_epochs=1.0),
    )


def published(method: str, protocol: str, group: str = 'VTAB', tag: str = '') -> dict[str, Any]:
    """Returns the settings of a run on VTAB-1k, FGVC or LION's tasks.

    Args:
      method: its name.
      protocol: 'vpt', 'spt' and 'lion', those of the papers (docs/benchmark.md), or 'adamw', a
        smaller search.
      group: 'VTAB', 'FGVC' or 'LION': SPT shows images of FGVC in another way than those of VTAB.
      tag: of the weights, as in the table of backbones. The papers' codes treat 'mae' and 'moco_v3'
        in ways of their own.

    Returns:
      Values of `RunConfig`.

    Raises:
      ValueError: another protocol.
    """
    makers = {'vpt': _vpt, 'adamw': _adamw, 'spt': _spt, 'lion': _lion}
    if protocol not in makers:
        raise ValueError(f'protocol is {protocol!r}; allowed: {", ".join(map(repr, makers))}')
    return makers[protocol](method, group, tag)


def _adamw(method: str, group: str, tag: str) -> dict[str, Any]:
    full = method == 'full'
    return {
        'epochs': 100,
        'batch_size': 64,
        'search_lrs': (1e-5, 3e-5, 1e-4, 3e-4) if full else _PUBLISHED_LRS.get(method, _LRS),
        'search_weight_decays': (0.01, 0.0001),
        'calibration': Calibration(),
        'optim': Optim('adamw', warmup_epochs=10.0),
    }


def _vpt(method: str, group: str, tag: str) -> dict[str, Any]:
    """Jia et al. 2022, arXiv:2203.12119, and its released code.

    With MAE's weights the code averages over patches and prompts and drops the file's final norm.
    """
    mae = tag == 'mae'
    full, batch = method == 'full', 1024 if method == 'linear' else 64
    return {
        'epochs': 100,
        'batch_size': batch,
        'search_lrs': tuple(lr * batch / 256 for lr in (_VPT_FULL_LRS if full else _VPT_LRS)),
        'search_weight_decays': _VPT_DECAYS,
        'tuner': {'dropout_rate': 0.1} if method == 'vpt_deep' else {},
        'calibration': Calibration(),
        'optim': Optim('sgd', momentum=0.9, warmup_epochs=10.0, per_epoch=True, decay_all=True),
        'model': Model(
            pool='mean_prompts' if mae else '',
            head_init='kaiming',
            norm='fresh' if mae else '',
        ),
    }


def _spt(method: str, group: str, tag: str) -> dict[str, Any]:
    """Wang et al. 2024, arXiv:2402.02382, section 4.1, and its released code.

    No grid is printed. This one holds what the scripts of the code have: lr .001 and .05, weight
    decay of the head .5 and 3.
    """
    fine_grained = group == 'FGVC'
    prompts = 20 if method in ('spt_deep', 'vpt_deep') else 100
    return {
        'epochs': 100,
        'batch_size': 32,
        'drop_last': True,
        'num_prompts': prompts,
        'weight_decay': 1e-2,
        'search_lrs': (1e-3, 5e-3, 1e-2, 5e-2, 1e-1),
        'search_head_weight_decays': (0.1, 0.5, 1.0, 3.0),
        'calibration': Calibration(construction='random'),
        'optim': Optim('adamw', warmup_epochs=10.0, min_lr=1e-8),
        'model': Model(
            pool='mean_prompts' if tag == 'mae' else '',
            head_std=0.01 if tag == 'moco_v3' else 0.02,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        'input': Input(resize='bicubic', crop='centre', crop_ratio=0.875 if fine_grained else 1.0),
        'augment': Augment('resized', flip=True, scale_min=0.08, kernel='bicubic')
        if fine_grained
        else Augment(),
    }


def _lion(method: str, group: str, tag: str) -> dict[str, Any]:
    """Wang et al., "LION" (AAAI 2024), section 4: one learning rate, no search.

    The paper names neither epochs nor a schedule: 100 epochs and a cosine are this project's.
    """
    return {
        'epochs': 100,
        'batch_size': 64,
        'search': False,
        'lr': 1e-5,
        'transform': {'tau': 0.4, 'shrink': 1.0} if method == 'lion' else {},
        'optim': Optim('adamw', b1=0.9),
    }
