"""The rival of `speed.py step`: the same training written plainly in PyTorch.

`bench_torch_vit.py`, `bench_torch_swin.py` and `bench_torch_resnet.py` are the backbones, frozen;
`bench_torch_tuners.py` is what trains beside them. Modules are named as in the canonical form of
the weights, so that all of them load strictly.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from bench_torch_resnet import ResNet
from bench_torch_swin import Swin
from bench_torch_tuners import LION, Border, DeepPrompts
from bench_torch_vit import ViT
from torch import nn

BACKBONES: Mapping[str, Callable[..., nn.Module]] = {'vit': ViT, 'swin': Swin, 'resnet': ResNet}
TUNERS: Mapping[str, Callable[..., nn.Module]] = {
    'vpt_deep': DeepPrompts,
    'vpt_pad': Border,
    'lion': LION,
}
_NAMES = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}


class Classifier(nn.Module):
    """Logits [B, K] of images [B, H, W, 3] uint8: a frozen backbone, a tuner and a linear head."""

    def __init__(self, config, method: str, options: Mapping[str, Any], num_classes: int):
        super().__init__()
        self.backbone = BACKBONES[config.family](config).requires_grad_(False)
        self.tuner = TUNERS[method](config, options)
        self.head = nn.Linear(config.spec().feature_dim, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images [B, H, W, 3] uint8 to logits [B, K]; normalises by mean = std = 0.5."""
        x = (images.permute(0, 3, 1, 2).float() / 255.0 - 0.5) / 0.5  # [B, 3, H, W], channels last
        return self.head(self.tuner(self.backbone, x))


def load(model: Classifier, arrays: Mapping[str, np.ndarray]) -> None:
    """Fills the model from the canonical per-layer arrays of `bench_problem.py`.

    Args:
      model: the model; every parameter of it is set.
      arrays: {'backbone/block_00/attn/qkv/kernel': ..., 'tuner/...', 'head/kernel': ...}.
    """
    state = {}
    for path, array in arrays.items():
        parent, _, leaf = path.rpartition('/')
        if leaf == 'kernel':
            array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
        if leaf == 'kernel' or path.startswith('backbone/'):
            leaf = _NAMES.get(leaf, leaf)
        name = f'{parent}/{leaf}'.replace('/', '.')
        state[name] = torch.from_numpy(np.ascontiguousarray(array))
    model.load_state_dict(state, strict=True)


class TorchSide:
    """Trains the tuner and the head on one batch, step after step.

    LION's features of the raw image are computed in every step, as a training loop does that does
    not keep them; `cached_rival` keeps them.

    Args:
      config: the backbone's configuration.
      problem: arrays of `bench_problem.make_problem`.
      settings: method, options, cached_rival, exempt, lr, weight_decay, momentum, dtype, precision,
        threads.
      compiled: whether torch.compile compiles the model.
    """

    def __init__(self, config, problem: Mapping[str, np.ndarray], settings, compiled: bool):
        torch.set_num_threads(settings['threads'])
        torch.set_float32_matmul_precision(
            'highest' if settings['precision'] == 'float32' else 'high'
        )
        self.device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        self.images = torch.from_numpy(problem['images']).to(self.device)
        self.labels = torch.from_numpy(problem['labels']).long().to(self.device)
        weights = {k: v for k, v in problem.items() if k not in ('images', 'labels')}
        model = Classifier(
            config, settings['method'], settings['options'], len(problem['head/bias'])
        )
        load(model, weights)
        model.to(self.device, memory_format=torch.channels_last).train()
        model.backbone.eval()
        self.bfloat16 = settings['dtype'] == 'bfloat16'
        decayed: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                # A norm's scale is no weight here: norms are frozen.
                exempt = name.rpartition('.')[2] in settings['exempt']
                (rest if exempt else decayed).append(parameter)
        self.optimizer = torch.optim.SGD(
            [{'params': decayed}, {'params': rest, 'weight_decay': 0.0}],
            lr=settings['lr'],
            momentum=settings['momentum'],
            weight_decay=settings['weight_decay'],
        )
        self.model = torch.compile(model) if compiled else model
        if settings['cached_rival']:
            model.tuner.keep_raw = True  # type: ignore[assignment]

    def _logits(self) -> torch.Tensor:
        cast = torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()
        with cast:
            return self.model(self.images).float()

    def train_step(self) -> torch.Tensor:
        """Takes one step and returns the loss before it, a scalar that is not yet waited for."""
        loss = F.cross_entropy(self._logits(), self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.inference_mode()
    def evaluate(self) -> torch.Tensor:
        """Runs the model on the batch and returns the loss."""
        return F.cross_entropy(self._logits(), self.labels)

    def wait(self) -> None:
        """Waits until the device has done all steps."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize()

    def facts(self) -> dict:
        """Returns the version, the device and, on a GPU, its peak memory in MB."""
        facts = {'version': f'torch {torch.__version__}', 'device': self.device.type}
        if self.device.type == 'cuda':
            facts['device'] = torch.cuda.get_device_name()
            facts['device_peak_mb'] = torch.cuda.max_memory_allocated() / 1e6
        return facts
