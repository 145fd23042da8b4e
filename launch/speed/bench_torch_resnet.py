"""A plain PyTorch ResNet: convolutions channels last, batch norms as constants."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """relu(branch(x) + shortcut(x)) on [B, C, H, W]; the stride stands in a 3 x 3 convolution."""

    def __init__(self, config, layer: int):
        super().__init__()
        sites = config.sites_of(layer)
        self.count = sum(name.startswith('conv') for name in sites)
        for name, site in sites.items():
            if 'conv' in name:
                k, step = site.kernel, site.stride
                conv = nn.Conv2d(site.inputs, site.outputs, k, step, k // 2, bias=False)
                self.add_module(name, conv)
            elif 'norm' in name:
                self.add_module(name, nn.BatchNorm2d(site.outputs, config.norm_epsilon))
        self.joins = 'down_conv' in sites

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, C, H, W] to [B, D, H / stride, W / stride]."""
        y = x
        for i in range(1, self.count + 1):
            y = self.get_submodule(f'norm{i}')(self.get_submodule(f'conv{i}')(y))
            if i < self.count:
                y = F.relu(y, inplace=True)
        shortcut = self.down_norm(self.down_conv(x)) if self.joins else x
        return F.relu(y + shortcut, inplace=True)


class ResNet(nn.Module):
    """Features [B, D] of images [B, 3, H, W] of any size."""

    def __init__(self, config):
        super().__init__()
        k, step = config.stem_kernel, config.stem_stride
        self.stem_conv = nn.Conv2d(3, config.width, k, step, k // 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(config.width, config.norm_epsilon)
        self.pools = config.stem == 'imagenet'
        self.names = [f'block_{layer:02d}' for layer in range(config.depth)]
        for layer, name in enumerate(self.names):
            self.add_module(name, Block(config, layer))

    def forward(self, x: torch.Tensor, prompts: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """Maps images [B, 3, H, W] to features [B, D]; there are no tokens to prompt."""
        assert not len(prompts)
        x = F.relu(self.stem_norm(self.stem_conv(x)), inplace=True)
        x = F.max_pool2d(x, 3, 2, 1) if self.pools else x
        for name in self.names:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))
