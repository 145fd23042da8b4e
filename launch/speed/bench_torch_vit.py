"""A plain PyTorch ViT, with deep prompts.

A pre-norm ViT as it is usually written in PyTorch: a joint qkv projection, the fused
`scaled_dot_product_attention`, exact GELU. P prompts of each layer stand after the class token and
replace those of the layer before.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class Mlp(nn.Module):
    """Dense, exact GELU, dense."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens [B, T, D] to [B, T, D]."""
        return self.fc2(F.gelu(self.fc1(x)))


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
    """x + attention(ln1(x)), then x + mlp(ln2(x))."""

    def __init__(self, width: int, num_heads: int, mlp_dim: int, epsilon: float):
        super().__init__()
        self.ln1 = nn.LayerNorm(width, eps=epsilon)
        self.attn = Attention(width, num_heads)
        self.ln2 = nn.LayerNorm(width, eps=epsilon)
        self.mlp = Mlp(width, mlp_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens [B, T, D] to [B, T, D]."""
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class ViT(nn.Module):
    """Features [B, D] of images [B, 3, H, W]."""

    def __init__(self, config):
        super().__init__()
        width, patch = config.width, config.patch_size
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid**2, width))
        self.names = [f'block_{layer:02d}' for layer in range(config.depth)]
        for name in self.names:
            block = Block(width, config.num_heads, config.mlp_dim, config.norm_epsilon)
            self.add_module(name, block)
        self.norm = nn.LayerNorm(width, eps=config.norm_epsilon)

    def forward(self, x: torch.Tensor, prompts: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """Maps images [B, 3, H, W], and prompts [P, D] of each layer or none, to [B, D]."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)  # [B, N, D]
        batch = len(x)
        x = torch.cat([self.cls_token.expand(batch, -1, -1), x], dim=1) + self.pos_embed
        for layer, name in enumerate(self.names):
            if len(prompts):
                own = prompts[layer].expand(batch, -1, -1)  # [B, P, D]
                rest = x[:, 1 + own.shape[1] :] if layer else x[:, 1:]
                x = torch.cat([x[:, :1], own, rest], dim=1)  # [B, 1 + P + N, D]
            x = self.get_submodule(name)(x)
        return self.norm(x[:, 0])
