"""A plain PyTorch Swin, with deep prompts in every window.

Windows by reshaping and `torch.roll`, and the fused `scaled_dot_product_attention` with the bias of
positions and the mask of shifted windows as its `attn_mask`. A layer's prompts enter each window of
their image without position and mask, and replace those of the layer before. What is done to tokens
one by one (norms, projections) is done once for each prompt and not in every window; what becomes
of prompts is averaged over the windows. Where the next layer replaces them at a merging of patches,
they are not merged. Grids are multiples of the window.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from bench_torch_vit import Mlp
from torch import nn


def window_mask(grid: int, window: int, shift: int) -> torch.Tensor:
    """Returns what is added to scores of shifted windows, [W, T, T]: 0, or -100 between regions."""
    band = torch.zeros(grid, dtype=torch.long)
    band[grid - window : grid - shift], band[grid - shift :] = 1, 2
    region = band[:, None] * 3 + band[None, :]
    count = grid // window
    region = region.reshape(count, window, count, window).transpose(1, 2).flatten(2).flatten(0, 1)
    return torch.where(region[:, :, None] == region[:, None, :], 0.0, -100.0)


def position_index(window: int) -> torch.Tensor:
    """Returns the row of the table of biases for each pair of places in a window, [T, T]."""
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    apart = places[:, None] - places[None, :] + window - 1  # [T, T, 2]
    return apart[..., 0] * (2 * window - 1) + apart[..., 1]


class WindowAttention(nn.Module):
    """Multi-head attention within windows of tokens [B, P + N, D], prompts first."""

    def __init__(self, width: int, num_heads: int, grid: int, window: int, shift: int):
        super().__init__()
        if grid % window:
            raise ValueError(f'a grid of {grid} is no multiple of the window, {window}')
        self.num_heads, self.grid, self.window, self.shift = num_heads, grid, window, shift
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        self.register_buffer('index', position_index(window), persistent=False)
        mask = window_mask(grid, window, shift) if shift else None
        self.register_buffer('mask', mask, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens [B, P + N, D] to [B, P + N, D]."""
        batch, width, side, count = len(x), x.shape[-1], self.window, self.grid // self.window
        num_prompts, num_heads = x.shape[1] - self.grid**2, self.num_heads
        qkv = self.qkv(x)
        patches = qkv[:, num_prompts:].reshape(batch, self.grid, self.grid, 3 * width)
        if self.shift:
            patches = torch.roll(patches, (-self.shift, -self.shift), (1, 2))
        patches = patches.reshape(batch, count, side, count, side, 3 * width).transpose(2, 3)
        patches = patches.reshape(batch, count**2, side**2, 3 * width)
        prompts = qkv[:, None, :num_prompts].expand(-1, count**2, -1, -1)
        joined = torch.cat([prompts, patches], dim=2)  # [B, W, P + T, 3D]
        joined = joined.reshape(batch * count**2, -1, 3, num_heads, width // num_heads)
        q, k, v = joined.permute(2, 0, 3, 1, 4).unbind(0)  # each [B * W, H, P + T, D/H]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(batch, num_prompts))
        y = y.transpose(1, 2).reshape(batch, count**2, -1, width)  # [B, W, P + T, D]
        patches = y[:, :, num_prompts:].reshape(batch, count, count, side, side, width)
        patches = patches.transpose(2, 3).reshape(batch, self.grid, self.grid, width)
        if self.shift:
            patches = torch.roll(patches, (self.shift, self.shift), (1, 2))
        y = torch.cat([y[:, :, :num_prompts].mean(1), patches.flatten(1, 2)], dim=1)
        return self.proj(y)

    def _bias(self, batch: int, num_prompts: int) -> torch.Tensor:
        """Returns what is added to scores, [1 or B * W, H, P + T, P + T]; 0 for prompts."""
        bias = self.relative_bias[self.index].permute(2, 0, 1)[None]  # [1, H, T, T]
        if self.mask is not None:
            bias = bias + self.mask[:, None]  # [W, H, T, T]
        bias = F.pad(bias, (num_prompts, 0, num_prompts, 0))
        return bias.repeat(batch, 1, 1, 1) if len(bias) > 1 else bias


class Block(nn.Module):
    """x + attention(ln1(x)), then x + mlp(ln2(x))."""

    def __init__(self, config, stage: int, shifted: bool):
        super().__init__()
        width, grid, window = (
            f(stage) for f in (config.width_of, config.grid_of, config.window_of)
        )
        shift = window // 2 if shifted and window < grid else 0
        self.ln1 = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.attn = WindowAttention(width, config.num_heads[stage], grid, window, shift)
        self.ln2 = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.mlp = Mlp(width, config.mlp_dim_of(stage))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens [B, P + N, D] to [B, P + N, D]."""
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Merge(nn.Module):
    """Joins 2 x 2 patches, normalises, and reduces them to twice the width."""

    def __init__(self, width: int, grid: int, epsilon: float):
        super().__init__()
        self.grid = grid
        self.norm = nn.LayerNorm(4 * width, eps=epsilon)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps patches [B, N, D] to [B, N / 4, 2D]; a square is joined column by column."""
        half = self.grid // 2
        x = x.reshape(len(x), half, 2, half, 2, -1).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(len(x), half * half, -1)))


class Swin(nn.Module):
    """Features [B, D] of images [B, 3, H, W]: the mean over patches and prompts."""

    def __init__(self, config):
        super().__init__()
        epsilon, patch = config.norm_epsilon, config.patch_size
        self.patch_embed = nn.Conv2d(3, config.width, patch, stride=patch)
        self.patch_norm = nn.LayerNorm(config.width, eps=epsilon)
        self.steps: list[list[str]] = []  # the modules of each layer
        for stage, (first, depth) in enumerate(zip(config.starts, config.depths, strict=True)):
            for layer in range(first, first + depth):
                self.steps.append([f'block_{layer:02d}'])
                self.add_module(f'block_{layer:02d}', Block(config, stage, (layer - first) % 2 > 0))
            if stage:
                merge = Merge(config.width_of(stage - 1), config.grid_of(stage - 1), epsilon)
                self.add_module(f'merge_{first:02d}', merge)
                self.steps[first].insert(0, f'merge_{first:02d}')
        self.norm = nn.LayerNorm(config.feature_dim, eps=epsilon)

    def forward(self, x: torch.Tensor, prompts: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """Maps images [B, 3, H, W], and prompts [P, D] of each layer or none, to [B, D]."""
        x = self.patch_norm(self.patch_embed(x).flatten(2).transpose(1, 2))  # [B, N, D]
        for layer, (*merge, block) in enumerate(self.steps):
            if layer and len(prompts):
                x = x[:, len(prompts[0]) :]
            for name in merge:
                x = self.get_submodule(name)(x)
            if len(prompts):
                x = torch.cat([prompts[layer].expand(len(x), -1, -1), x], dim=1)
            x = self.get_submodule(block)(x)  # [B, P + N, D]
        return self.norm(x).mean(1)
