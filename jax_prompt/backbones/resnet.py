"""Residual networks, v1.5: convolutions in four stages, for all methods and all checkpoints.

He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385; the stride of a
bottleneck stands in its 3x3 convolution, as in torchvision, timm and Hugging Face.

Layers are residual blocks, numbered through all stages; what enters a block is a feature map
[B, H, W, C]. Blocks of a run, which are alike, are stacked. There are no tokens and no position of
one: images may be of any size, and a tuner may enlarge them (`Tuner.image`). A tuner that joins
channels to the image need not widen the stem: convolutions are linear, so theirs is added at the
site 'stem_conv'.

Batch norms are constants of the network, unless the configuration has `batch_statistics`: then they
normalise by the batch in training (`nn.batch_norm`).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_prompt.backbones.resnet_config import ResNetConfig
from jax_prompt.backbones.stack import Blocks, Stacked
from jax_prompt.core.facts import Facts
from jax_prompt.core.spec import Site
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.nn.batch_norm import BatchNorm
from jax_prompt.nn.convolution import convolve, max_pool

# He et al., "Delving Deep into Rectifiers", arXiv:1502.01852, as torchvision starts a ResNet.
_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class Conv(nn.Module):
    """A convolution without bias.

    Attributes:
      site: its widths, kernel and stride.
    """

    site: Site

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, inputs] to [B, H / stride, W / stride, outputs]."""
        site = self.site
        shape = (site.kernel, site.kernel, site.inputs, site.outputs)
        kernel = self.param('kernel', _INIT, shape)
        return convolve(x, kernel.astype(x.dtype), site.stride)


class Block(nn.Module):
    """A residual block, relu(branch(x) + shortcut(x)), with the tuner's hooks.

    Attributes:
      config: the ResNet's configuration.
      layer: the block's index, or that of one like it.
    """

    config: ResNetConfig
    layer: int

    @nn.compact
    def __call__(self, x: jax.Array, tuner: Tuner, place: Place, drop_rate: Any) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, D]."""
        del drop_rate  # no stochastic depth
        cfg = self.config
        sites, by_batch = cfg.sites_of(self.layer), cfg.batch_statistics and place.train

        def normed(x: jax.Array, conv: str, norm: str) -> jax.Array:
            y = tuner.after(place, conv, x, Conv(sites[conv], name=conv)(x))
            z = BatchNorm(cfg.norm_epsilon, cfg.momentum, name=norm)(y, by_batch)
            return tuner.after(place, norm, y, z)

        y, last = x, 2 if cfg.block == 'basic' else 3
        for i in range(1, last + 1):
            y = normed(y, f'conv{i}', f'norm{i}')
            y = nn.relu(y) if i < last else y
        shortcut = normed(x, 'down_conv', 'down_norm') if 'down_conv' in sites else x
        shortcut = tuner.after(place, 'shortcut', shortcut, shortcut)
        return tuner.after(place, 'block', x, nn.relu(y + shortcut)).astype(x.dtype)


class ResNet(Stacked):
    """The backbone, see `Stacked`."""

    config: ResNetConfig

    def embed(self, images: jax.Array, tuner: Tuner, place: Place, bare_patches: bool) -> jax.Array:
        """Maps images [B, H, W, 3] to the feature map [B, H / 4, W / 4, C] that enters block 0."""
        del bare_patches
        cfg = self.config
        images = images.astype(cfg.dtype)
        conv = Conv(cfg.spec().outer['stem_conv'], name='stem_conv')
        y = tuner.after(place, 'stem_conv', images, conv(images))
        norm = BatchNorm(cfg.norm_epsilon, cfg.momentum, name='stem_norm')
        z = norm(y, cfg.batch_statistics and place.train)
        x = nn.relu(tuner.after(place, 'stem_norm', y, z)).astype(cfg.dtype)
        return max_pool(x) if cfg.stem == 'imagenet' else x

    def blocks(self, span: tuple[int, int], facts: Facts) -> Blocks:
        """Returns the blocks of a segment, of one run."""
        del facts
        first, last = span
        entering = (1, 2, 2, self.config.inputs_of(first))
        # A loop of one turn would only cost.
        return Blocks(Block(self.config, first, parent=None), entering, last - first > 1)

    def pool(self, x: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """Maps a feature map [B, H, W, D] to features [B, D] float32."""
        pixels = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)  # [B, N, D]
        features = jnp.mean(pixels, axis=1)
        asked = tuner.facts(self.config.spec()).needs_tokens
        return tuner.pool(place, pixels, features) if asked else features
