"""ConvNeXt: depthwise convolutions and MLPs in four stages, for all methods and all checkpoints.

Liu et al., "A ConvNet for the 2020s", arXiv:2201.03545. Layers are blocks, numbered through all
stages; what enters a block is a feature map [B, H, W, D]. Between two stages 2 x 2 pixels are
joined and mapped to twice the width, after a norm of their own; the map that enters a stage's first
block is the joined one. There are no tokens: images may be of any size, and a tuner may enlarge
them (`Tuner.image`). What patches or joining do not divide is cut off, as a convolution without
padding does.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_prompt.backbones.convnext_config import KERNEL, MLP_RATIO, ConvNeXtConfig, down_name
from jax_prompt.backbones.stack import Blocks, Stacked
from jax_prompt.core.facts import Facts
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.nn.convolution import depthwise
from jax_prompt.nn.layers import drop_path
from jax_prompt.nn.transformer import LayerScale, Mlp, PatchEmbed


class Depthwise(nn.Module):
    """A depthwise convolution with a bias."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, D] to [B, H, W, D]."""
        width = x.shape[-1]
        shape = (KERNEL, KERNEL, 1, width)
        kernel = self.param('kernel', nn.initializers.truncated_normal(0.02), shape)
        bias = self.param('bias', nn.initializers.zeros, (width,))
        return depthwise(x, kernel.astype(x.dtype)) + bias.astype(x.dtype)


class Block(nn.Module):
    """A block, x + scale * mlp(norm(depthwise(x))), with the tuner's hooks.

    Attributes:
      config: the ConvNeXt's configuration.
    """

    config: ConvNeXtConfig

    @nn.compact
    def __call__(self, x: jax.Array, tuner: Tuner, place: Place, drop_rate: Any) -> jax.Array:
        """Maps [B, H, W, D] to [B, H, W, D]."""
        cfg, key = self.config, None
        if cfg.drop_path_rate and place.train and place.key is not None:
            key = jax.random.fold_in(place.key, 1)
        own = x.astype(cfg.dtype)
        y = tuner.after(place, 'dwconv', own, Depthwise(name='dwconv')(own))
        norm = nn.LayerNorm(epsilon=cfg.norm_epsilon, dtype=jnp.float32, name='ln1')
        z = tuner.after(place, 'ln1', y, norm(y))
        z = Mlp(MLP_RATIO * x.shape[-1], cfg.dtype, name='mlp')(z, tuner, place)
        z = LayerScale(1e-6, name='ls1')(z)  # the paper's start
        shortcut = tuner.after(place, 'shortcut', x, x)
        out = shortcut + drop_path(key, z, drop_rate).astype(x.dtype)
        return tuner.after(place, 'block', x, out).astype(x.dtype)


class Down(nn.Module):
    """A norm, then a product that maps 2 x 2 pixels to one of twice the width.

    Attributes:
      config: the ConvNeXt's configuration.
      first: index of the first block of the stage that it leads to.
    """

    config: ConvNeXtConfig
    first: int

    @nn.compact
    def __call__(self, x: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """Maps [B, H, W, D] to [B, H / 2, W / 2, 2D]."""
        cfg, site = self.config, down_name(self.first)
        norm = nn.LayerNorm(epsilon=cfg.norm_epsilon, dtype=jnp.float32, name='norm')
        y = tuner.after(place, f'{site}_norm', x, norm(x))
        z = _joined(y, PatchEmbed(2, 2 * x.shape[-1], cfg.dtype, name='conv'))
        return tuner.after(place, site, y, z.astype(x.dtype))


class ConvNeXt(Stacked):
    """The backbone, see `Stacked`."""

    config: ConvNeXtConfig

    def embed(self, images: jax.Array, tuner: Tuner, place: Place, bare_patches: bool) -> jax.Array:
        """Maps images [B, H, W, 3] to the feature map [B, H / 4, W / 4, D] that enters block 0."""
        del bare_patches
        cfg = self.config
        x = _joined(images, PatchEmbed(cfg.patch_size, cfg.width, cfg.dtype, name='patch_embed'))
        x = tuner.after(place, 'patch_embed', images, x.astype(jnp.float32))
        norm = nn.LayerNorm(epsilon=cfg.norm_epsilon, dtype=jnp.float32, name='patch_norm')
        return tuner.after(place, 'patch_norm', x, norm(x))

    def blocks(self, span: tuple[int, int], facts: Facts) -> Blocks:
        """Returns the blocks of a segment, of one stage."""
        del facts
        width = self.config.width_of(self.config.spec().stage_index(span[0]))
        return Blocks(Block(self.config, parent=None), (1, 2, 2, width))

    def between(self, layer: int, x: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """Joins pixels before the first block of a stage."""
        if layer not in self.config.starts:
            return x
        return Down(self.config, layer, name=down_name(layer))(x, tuner, place)

    def pool(self, x: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """Maps a feature map [B, H, W, D] to features [B, D] float32."""
        norm = nn.LayerNorm(epsilon=self.config.pool_epsilon, dtype=jnp.float32, name='norm')
        pixels = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)  # [B, N, D]
        mean = jnp.mean(pixels, axis=1)
        features = tuner.after(place, 'norm', mean, norm(mean))
        asked = tuner.facts(self.config.spec()).needs_tokens
        return tuner.pool(place, norm(pixels), features) if asked else features


def _joined(x: jax.Array, product: PatchEmbed) -> jax.Array:
    """Maps p x p pixels of x [B, H, W, C] to one, [B, H / p, W / p, D]."""
    height, width = (side // product.patch_size for side in x.shape[1:3])
    whole = x[:, : height * product.patch_size, : width * product.patch_size]
    return product(whole).reshape(x.shape[0], height, width, -1)
