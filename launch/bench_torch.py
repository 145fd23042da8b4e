"""The rival of `bench.py step`: VPT-deep on a plain PyTorch ViT.

A pre-norm ViT as it is usually written in PyTorch: a joint qkv projection, the fused
`scaled_dot_product_attention`, exact GELU, LayerNorm with epsilon 1e-6. P prompts of each layer
stand after the class token and replace those of the layer before; the backbone is frozen.
"""

from collections.abc import Mapping
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Multi-head self-attention on tokens [B, T, D]."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens [B, T, D] to [B, T, D]."""
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, H, T, D/H]
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(self, width: int, num_heads: int, mlp_dim: int, epsilon: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=epsilon)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=epsilon)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens [B, T, D] to [B, T, D]."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PromptedViT(nn.Module):
    """Logits [B, K] of images [B, H, W, 3] uint8, by a frozen ViT with deep prompts."""

    def __init__(self, config, num_prompts: int, num_classes: int):
        super().__init__()
        width, patch = config.width, config.patch_size
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid**2, width))
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, config.mlp_dim, config.norm_epsilon)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        for parameter in self.parameters():
            parameter.requires_grad = False
        self.prompts = nn.Parameter(torch.zeros(config.depth, num_prompts, width))
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images [B, H, W, 3] uint8 to logits [B, K]; normalises by mean = std = 0.5."""
        x = (images.permute(0, 3, 1, 2).float() / 255.0 - 0.5) / 0.5  # [B, 3, H, W]
        x = self.patch_embed(x).flatten(2).transpose(1, 2)  # [B, N, D]
        batch, length = len(x), self.prompts.shape[1]
        x = torch.cat([self.cls_token.expand(batch, -1, -1), x], dim=1) + self.pos_embed
        for layer, block in enumerate(self.blocks):
            prompts = self.prompts[layer].expand(batch, -1, -1)  # [B, P, D]
            rest = x[:, 1 + length :] if layer else x[:, 1:]
            x = block(torch.cat([x[:, :1], prompts, rest], dim=1))  # [B, 1 + P + N, D]
        return self.head(self.norm(x[:, 0]))


def load(model: PromptedViT, arrays: Mapping[str, np.ndarray]) -> None:
    """Fills the model from the canonical per-layer arrays of `bench.py`.

    Args:
      model: the model; every parameter of it is set.
      arrays: {'backbone/block_00/attn/qkv/kernel': ..., 'prompts': ..., 'head/kernel': ...}.
    """
    names = {'ln1': 'norm1', 'ln2': 'norm2', 'mlp/fc1': 'mlp/0', 'mlp/fc2': 'mlp/2'}
    state = {}
    for path, array in arrays.items():
        name = path.removeprefix('backbone/')
        if name.startswith('block_'):
            layer, _, rest = name.removeprefix('block_').partition('/')
            module, _, leaf = rest.rpartition('/')
            name = f'blocks/{int(layer)}/{names.get(module, module)}/{leaf}'
        if name == 'patch_embed/kernel':
            array = array.transpose(3, 2, 0, 1)  # [D, 3, p, p]
        elif name.endswith('/kernel'):
            array = array.T
        name = name.replace('/kernel', '/weight').replace('/scale', '/weight').replace('/', '.')
        state[name] = torch.from_numpy(np.ascontiguousarray(array))
    model.load_state_dict(state, strict=True)


class TorchSide:
    """Trains the prompts and the head on one batch, step after step.

    Args:
      config: the `ViTConfig`.
      problem: arrays of `bench.make_problem`.
      settings: lr, weight_decay, momentum, dtype, precision, threads.
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
        model = PromptedViT(config, problem['prompts'].shape[1], len(problem['head/bias']))
        load(model, weights)
        model.to(self.device).train()
        decayed, rest = [model.prompts, model.head.weight], [model.head.bias]
        groups = [{'params': decayed}, {'params': rest, 'weight_decay': 0.0}]
        self.optimizer = torch.optim.SGD(
            groups,
            lr=settings['lr'],
            momentum=settings['momentum'],
            weight_decay=settings['weight_decay'],
        )
        self.model = torch.compile(model) if compiled else model
        self.bfloat16 = settings['dtype'] == 'bfloat16'

    def train_step(self) -> torch.Tensor:
        """Takes one step and returns the loss before it, a scalar that is not yet waited for."""
        cast = torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()
        with cast:
            logits = self.model(self.images)
        loss = F.cross_entropy(logits.float(), self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.inference_mode()
    def evaluate(self) -> torch.Tensor:
        """Runs the model on the batch and returns the loss."""
        cast = torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()
        with cast:
            logits = self.model(self.images)
        return F.cross_entropy(logits.float(), self.labels)

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
