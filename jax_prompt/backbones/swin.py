"""Swin Transformer: attention in windows, four stages, for all methods and all checkpoints.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
arXiv:2103.14030. Layers are numbered through all stages. Between two stages 2 x 2 patches are
merged: joined, normalised, and reduced to twice the width; the tokens that enter a stage's first
block are the merged ones.

Prompts stand before the patches, [B, P + N, D]. They enter every window of their image, without
position and mask; what becomes of them is averaged over the windows; where patches are merged, a
prompt is joined with itself four times (Jia et al., arXiv:2203.12119, and its released code).

The blocks of a stage are stacked and scanned (`backbones.stack`). Plain and shifted windows are the
same block with other tables of indices (`nn.windows`), so that one scan takes both and a segment
may end between them.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.backbones.stack import Stack, check_cuts, check_images
from jax_prompt.backbones.swin_config import SwinConfig, merge_name
from jax_prompt.core.spec import FEATURES, IMAGE, Cut
from jax_prompt.core.tree import Put, Tree, keep, segment_name, segments, stack_layers
from jax_prompt.core.tuner import Place, Tuner
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
    def __call__(
        self, x: jax.Array, tuner: Tuner, place: Place, drop_rate: Any, windows: Windows
    ) -> jax.Array:
        cfg, i = self.config, self.stage
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
        reduction = nn.Dense(2 * width, use_bias=False, dtype=cfg.dtype, name='reduction')
        return tuner.after(place, site, y, reduction(y)).astype(x.dtype)


class Swin(nn.Module):
    """The backbone: images to pooled features, or any stretch of that way.

    Attributes:
      config: its configuration.
      seams: layers at which the stacked blocks are cut into segments, besides the stages' ends.
    """

    config: SwinConfig
    seams: tuple[int, ...] = ()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        tuner: Tuner | None = None,
        tuner_params: Tree | None = None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
        start: Cut = IMAGE,
        stop: Cut = FEATURES,
        bare_patches: bool = False,
    ) -> Any:
        """Runs the network from `start` to `stop`.

        Args:
          x: normalised images [B, H, W, 3] float32 if `start` is the image, else the tokens
            [B, N, D] that enter block `start`.
          tuner: answers the hooks; None adds nothing.
          tuner_params: the tuner's parameters, {'shared': ..., 'layers': {'stage_00': ...}}, and
            its probes as {'probe': ...} where it has any.
          key: random key for dropout and drop path; None: nothing is random.
          train: whether this is a training step.
          start: where x stands. A block must be a seam, a stage's first, or 0.
          stop: FEATURES for pooled features, or the block whose input is wanted, likewise.
          bare_patches: return the patch embeddings [B, N, D], which have no positions here.

        Returns:
          Features [B, D] float32, or tokens [B, P + N, D], P = 0 before a block with prompts of its
          own.

        Raises:
          ValueError: images of another size, or a start or stop that is no seam.
        """
        tuner, params, cfg = tuner or Tuner(), tuner_params or {}, self.config
        seams = (*cfg.starts, *self.seams)
        check_cuts('Swin', cfg.depth, seams, start, stop)
        place = Place.outside(params, x if start.at_image else None, key, train)
        if start.at_image:
            x = self._embed(tuner.image(place, x), tuner, place)
        if bare_patches:
            return x
        rates, spec = jnp.linspace(0.0, cfg.drop_path_rate, cfg.depth), cfg.spec()
        stack = Stack(spec, seams, rates, cfg.remat, cfg.scan)
        for first, last in segments(cfg.depth, seams):
            stage = spec.stage_index(first)
            if first in cfg.starts[1:] and max(start.block, 0) < first <= stop.block:
                x = Merge(cfg, stage - 1, name=merge_name(first))(x, tuner, place)
            inside = first >= max(start.block, 0) and last <= stop.block
            if not (inside or self.is_initializing()):
                continue  # a prefix needs no parameters beyond its stop
            make = partial(_init_blocks, cfg, stage, last - first)
            blocks = self.param(segment_name(first, last), make)
            if inside:
                apply = partial(_apply_block, cfg, stage, tuner)
                x = stack.run(apply, blocks, x, tuner, params, place, (first, last))
        return self._pool(x, tuner, place) if stop.block >= cfg.depth else x

    def _embed(self, images: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """Images [B, H, W, 3] to tokens [B, N, D]."""
        cfg = self.config
        check_images('Swin', images, cfg.image_size)
        more = -cfg.image_size % cfg.patch_size
        images = jnp.pad(images, ((0, 0), (0, more), (0, more), (0, 0)))
        x = PatchEmbed(cfg.patch_size, cfg.width, cfg.dtype, name='patch_embed')(images)
        x = tuner.after(place, 'patch_embed', images, x.astype(jnp.float32))  # [B, N, D]
        norm = nn.LayerNorm(epsilon=cfg.norm_epsilon, dtype=jnp.float32, name='patch_norm')
        return tuner.after(place, 'patch_norm', x, norm(x))

    def _pool(self, x: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """Tokens [B, P + N, D] to features [B, D] float32."""
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


def _init_blocks(config: SwinConfig, stage: int, count: int, key: jax.Array) -> Tree:
    block, area = Block(config, stage, parent=None), config.grid_of(stage) ** 2
    dummy, windows = jnp.zeros((1, area, config.width_of(stage))), _windows(config, stage, 0)
    make = lambda k: block.init(k, dummy, Tuner(), Place(), 0.0, windows)['params']  # noqa: E731
    return jax.vmap(make)(jax.random.split(key, count))


def _apply_block(
    config: SwinConfig,
    stage: int,
    tuner: Tuner,
    weights: Tree,
    x: jax.Array,
    place: Place,
    rate: Any,
) -> jax.Array:
    block, windows = Block(config, stage, parent=None), _windows(config, stage, place.layer)
    out: Any = block.apply({'params': weights}, x, tuner, place, rate, windows)
    return out


def adapt(tree: Tree, config: SwinConfig, seams: tuple[int, ...] = (), put: Put = keep) -> Tree:
    """Turns a checkpoint's per-layer tree into the running form of `config`.

    Args:
      tree: `block_00/...` form (`weights.load`), position biases of the checkpoint's own windows.
      config: the Swin to run; its window and image size set the windows.
      seams: as in `Swin`.
      put: as in `core.tree.stack_layers`.

    Returns:
      The tree that `Swin(config, seams)` takes, position biases resized (bicubic).
    """
    out, spec = dict(tree), config.spec()
    for layer in range(config.depth):
        block = tree[f'block_{layer:02d}']
        window = config.window_of(spec.stage_index(layer))
        table = resize_relative_bias(np.asarray(block['attn']['relative_bias']), window)
        attention = {**block['attn'], 'relative_bias': table}
        out[f'block_{layer:02d}'] = {**block, 'attn': attention}
    return stack_layers(out, (*config.starts, *seams), put)


def run_block(
    config: SwinConfig, blocks: Tree, x: jax.Array, layer: jax.Array, first: int = 0
) -> jax.Array:
    """Runs one frozen block, without a tuner, on all its tokens.

    Args:
      config: the Swin.
      blocks: the stacked blocks of one stage, leaves [L, ...].
      x: tokens entering the block, [B, N, D].
      layer: index of the block in its stage; may be traced.
      first: index of the stage's first block in the network.

    Returns:
      The tokens leaving it, [B, N, D], before any merging.
    """
    weights = jax.tree.map(lambda leaf: leaf[layer], blocks)
    stage, place = config.spec().stage_index(first), Place(layer=first + layer)
    return _apply_block(config, stage, Tuner(), weights, x, place, 0.0)
