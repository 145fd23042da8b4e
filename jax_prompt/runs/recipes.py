"""Settings that configs share: the offline suite, images of one's own, published benchmarks."""

from typing import Any

from jax_prompt.calibrate.spt import Calibration
from jax_prompt.runs.config import RunConfig
from jax_prompt.train.optim import Optim
from jax_prompt.train.options import Engine

# Methods that train on cached features: an epoch takes a fraction of a second.
_CACHED = ('linear', 'mlp')
# Prototypes are several times as long as the random prompts of VPT, so their steps are too.
_OFFLINE_LRS = {
    'full': (1e-4, 3e-4, 1e-3),
    'spt_deep': (3e-2, 1e-1, 3e-1),
    'spt_shallow': (3e-2, 1e-1),
}

# Three values, an octave and a half apart, around what worked.
_OWN_LRS = {
    'linear': (3e-4, 1e-3, 3e-3),
    'full': (1e-5, 3e-5, 1e-4),
}

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
        calibration=Calibration(construction='random'),
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
        calibration=Calibration(construction='mean'),
        optim=Optim(name='adamw', warmup_epochs=1.0),
    )


def published(method: str, protocol: str) -> dict[str, Any]:
    """Returns the settings of a run on VTAB-1k or FGVC.

    Args:
      method: its name.
      protocol: 'vpt', that of Visual Prompt Tuning, or 'adamw', a smaller search.

    Returns:
      Values of `RunConfig`.

    Raises:
      ValueError: another protocol.
    """
    if protocol not in ('vpt', 'adamw'):
        raise ValueError(f"protocol is {protocol!r}; allowed: 'vpt', 'adamw'")
    vpt, full = protocol == 'vpt', method == 'full'
    batch = 1024 if vpt and method == 'linear' else 64
    if vpt:
        lrs = tuple(lr * batch / 256 for lr in (_VPT_FULL_LRS if full else _VPT_LRS))
        optim = Optim('sgd', momentum=0.9, warmup_epochs=10.0, per_epoch=True)
    else:
        lrs = (1e-5, 3e-5, 1e-4, 3e-4) if full else (1e-3, 3e-3, 1e-2, 3e-2)
        optim = Optim('adamw', warmup_epochs=10.0)
    return {
        'epochs': 100,
        'batch_size': batch,
        'search_lrs': lrs,
        'search_weight_decays': _VPT_DECAYS if vpt else (0.01, 0.0001),
        'tuner': {'dropout_rate': 0.1} if vpt and method == 'vpt_deep' else {},
        'calibration': Calibration(construction='mean'),
        'optim': optim,
    }
