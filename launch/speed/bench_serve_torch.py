"""A plain PyTorch ViT behind the same HTTP, line of images and batches, for the load test."""

from typing import Any

import numpy as np
import torch
from bench_torch_vit import ViT
from torch import nn

from jax_prompt.backbones.architectures import ARCHITECTURES
from jax_prompt.data.transforms import StoredView
from jax_prompt.serve.task import Answer, Task


class TorchBackbone:
    """One task of a frozen PyTorch ViT with deep prompts; what a `Service` asks of a backbone.

    Args:
      arch: a ViT of the table.
      prompts: P.
      classes: K.
      max_batch: most images of a call.
      threads: of PyTorch.
    """

    def __init__(self, arch: str, prompts: int, classes: int, max_batch: int, threads: int):
        torch.set_num_threads(threads)
        config: Any = ARCHITECTURES[arch]
        self.max_batch, self.label = max_batch, arch
        self.device_bytes: dict[str, int] = {}
        generator = torch.Generator().manual_seed(0)
        self._vit = ViT(config).eval()
        shape = (config.depth, prompts, config.width)
        self._prompts = 0.02 * torch.randn(shape, generator=generator)
        self._head = nn.Linear(config.width, classes)
        names = tuple(f'class {i}' for i in range(classes))
        view = StoredView(config.image_size, 'bilinear', 'squash', 0.875)
        self.tasks = {'t0': Task('t0', names, 'torch', '0' * 64, view)}

    @torch.inference_mode()
    def answer(self, images: Any, asked: Any) -> list[Answer]:
        """Computes the logits of images; batches have the size that they have."""
        shown = torch.from_numpy(np.stack([images[i] for i, _ in asked]))
        x = shown.permute(0, 3, 1, 2).float() / 127.5 - 1.0  # [B, 3, H, W]
        logits = self._head(self._vit(x, self._prompts)).numpy()
        return [Answer(self.tasks[name], row) for (_, name), row in zip(asked, logits, strict=True)]

    def warm(self) -> None:
        """Runs each size once."""
        task = self.tasks['t0']
        image = np.zeros((task.view.size, task.view.size, 3), np.uint8)
        for size in (1, self.max_batch):
            self.answer([image] * size, [(i, 't0') for i in range(size)])
