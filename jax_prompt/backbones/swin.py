"""Swin Transformer: attention in windows, four stages, for all methods and all checkpoints.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
arXiv:2103.14030. Layers are numbered through all stages. Between two stages 2 x 2 patches are
merged: joined, normalised, and reduced to twice the width; the tokens that enter a stage's first
block are the merged ones.

Prompts stand before the patches, [B, P + N, D]. They enter every window of their image, without
position and mask; what becomes of them is averaged over the windows; where patches are merged, a
prompt is joined with itself four times (Jia et al., arXiv:2203.12119, and its released code).

Plain and shifted windows are the same block with other tables of indices (`nn.windows`), so that
one scan takes both and a segment may end between them.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.backbones import stack
from jax_prompt.backbones.stack import Blocks, Stacked
from jax_prompt.backbones.swin_config import SwinConfig, merge_name
from jax_prompt.core.facts import Facts
from jax_prompt.core.tree import Put, Tree, keep
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.nn.products import Dense
from jax_prompt.nn.transformer import Mlp, PatchEmbed, pre_norm_block
from jax_prompt.nn.windows import (
    WindowAttention,
    Windows,
    plain_and_shifted,
    resize_relative_bias,
)


class Block(nn.Module):
    """One block: `pre_norm_block` with attention within windows.

    Attributes:
      config: the Swin's configuration.
      stage: index of the stage that the block is in.
    """

    config: SwinConfig
    stage: int

    @nn.compact
    def __call__(self, x: jax.Array, tuner: Tuner, place: Place, drop_rate: Any) -> jax.Array:
        cfg, i, windows = self.config, self.stage, _windows(self.config, self.stage, place.layer)
        attention = WindowAttention(
            cfg.num_heads[i], cfg.window_of(i), cfg.qkv_bias, cfg.dtype, name='attn'
        )
        mlp = Mlp(cfg.mlp_dim_of(i), cfg.dtype, name='mlp')
        return pre_norm_block(
            x,
            partial(attention, tuner=tuner, place=place, windows=windows),
            partial(mlp, tuner=tuner, place=place),
            tuner,
            place,
            drop_rate,
            norm_epsilon=cfg.norm_epsilon,
            drops=cfg.drop_path_rate > 0.0,
        )


class Merge(nn.Module):
    """Joins 2 x 2 patches, normalises, and reduces them to twice the width.

    Attributes:
      config: the Swin's configuration.
      stage: index of the stage that the tokens come from.
    """

    config: SwinConfig
    stage: int

    @nn.compact
    def __call__(self, x: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """Maps tokens [B, P + N, D] to [B, P + N / 4, 2D]."""
        cfg, grid = self.config, self.config.grid_of(self.stage)
        site, width = merge_name(cfg.starts[self.stage + 1]), x.shape[-1]
        num_prompts, odd = x.shape[1] - grid * grid, grid % 2
        prompts, patches = x[:, :num_prompts], x[:, num_prompts:]
        patches = patches.reshape(-1, grid, grid, width)
        patches = jnp.pad(patches, ((0, 0), (0, odd), (0, odd), (0, 0)))
        half = (grid + odd) // 2
        patches = patches.reshape(-1, half, 2, half, 2, width)
        # A 2 x 2 square column by column: upper left, lower left, upper right, lower right.
        patches = patches.transpose(0, 1, 3, 4, 2, 5).reshape(-1, half * half, 4 * width)
        x = jnp.concatenate([jnp.tile(prompts, (1, 1, 4)), patches], axis=1)  # [B, P + N/4, 4D]
        norm = nn.LayerNorm(epsilon=cfg.norm_epsilon, dtype=jnp.float32, name='norm')
        y = tuner.after(place, f'{site}_norm', x, norm(x))
        init = nn.initializers.lecun_normal()
        reduction = Dense(2 * width, False, cfg.dtype, init, name='reduction')
        return tuner.after(place, site, y, reduction(y)).astype(x.dtype)


class Swin(Stacked):
    """The backbone, see `Stacked`."""

    config: SwinConfig

    def embed(self, images: jax.Array, tuner: Tuner, place: Place, bare_patches: bool) -> jax.Array:
        """Maps images [B, H, W, 3] to tokens [B, N, D], which have no positions here."""
        del bare_patches
        cfg = self.config
        more = -cfg.image_size % cfg.patch_size
        images = jnp.pad(images, ((0, 0), (0, more), (0, more), (0, 0)))
        x = PatchEmbed(cfg.patch_size, cfg.width, cfg.dtype, name='patch_embed')(images)
        x = tuner.after(place, 'patch_embed', images, x.astype(jnp.float32))  # [B, N, D]
        norm = nn.LayerNorm(epsilon=cfg.norm_epsilon, dtype=jnp.float32, name='patch_norm')
        return tuner.after(place, 'patch_norm', x, norm(x))

    def blocks(self, span: tuple[int, int], facts: Facts) -> Blocks:
        """Returns the blocks of a segment, of one stage."""
        del facts
        cfg, stage = self.config, self.config.spec().stage_index(span[0])
        entering = (1, cfg.grid_of(stage) ** 2, cfg.width_of(stage))
        return Blocks(Block(cfg, stage, parent=None), entering)

    def between(self, layer: int, x: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """Merges patches before the first block of a stage."""
        if layer not in self.config.starts:
            return x
        stage = self.config.starts.index(layer) - 1
        return Merge(self.config, stage, name=merge_name(layer))(x, tuner, place)

    def pool(self, x: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """Maps tokens [B, P + N, D] to features [B, D] float32."""
        cfg = self.config
        norm = nn.LayerNorm(epsilon=cfg.norm_epsilon, dtype=jnp.float32, name='norm')
        normed = norm(x)
        kept = tuner.after(place, 'norm', x, normed)
        num_patches = cfg.grid_of(len(cfg.depths) - 1) ** 2
        first = 0 if cfg.pool == 'mean_prompts' else x.shape[1] - num_patches
        features = jnp.mean(kept[:, first:], axis=1)
        asked = tuner.facts(cfg.spec()).needs_tokens
        return tuner.pool(place, normed, features) if asked else features


def _windows(config: SwinConfig, stage: int, layer: Any) -> Windows:
    """Returns the windows of a layer of a stage, whose index may be traced."""
    both = plain_and_shifted(config.grid_of(stage), config.window_of(stage))
    odd = (layer - config.starts[stage]) % both.table.shape[0]
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[odd], both)


def adapt(tree: Tree, config: SwinConfig, seams: tuple[int, ...] = (), put: Put = keep) -> Tree:
    """Resizes the tables of position biases (bicubic) to the windows of `config`, stacks blocks.

    Arguments and result as of `stack.adapt`.
    """
    out, spec = dict(tree), config.spec()
    for layer in range(config.depth):
        block = tree[f'block_{layer:02d}']
        window = config.window_of(spec.stage_index(layer))
        table = resize_relative_bias(np.asarray(block['attn']['relative_bias']), window)
        attention = {**block['attn'], 'relative_bias': table}
        out[f'block_{layer:02d}'] = {**block, 'attn': attention}
    return stack.adapt(out, config, seams, put)
