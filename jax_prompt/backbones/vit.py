"""Vision Transformer: one file for all methods and all checkpoints.

Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv:2010.11929; with what MAE (mean pooling,
norm after it), DINOv2 (layer scale, arXiv:2304.07193) and its registers (arXiv:2309.16588) need.

Tokens stand in the order class token, registers, prompts, patches. Blocks are stacked and scanned,
one scan a segment (`core.tree.segments`, `backbones.stack`): a scan compiles one block instead of L
and runs as fast or faster on CPU. The last block is a segment of its own: where the class token
alone is pooled, it computes that token alone, and of the others keys and values.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_prompt.backbones.stack import Stack, check_cuts, check_images
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.spec import FEATURES, IMAGE, Cut
from jax_prompt.core.tree import Put, Tree, keep, segment_name, segments, stack_layers
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.nn.layers import resize_positions
from jax_prompt.nn.transformer import Attention, Mlp, PatchEmbed, pre_norm_block


class Block(nn.Module):
    """One block: `pre_norm_block` with attention among all tokens.

    Attributes:
      config: the ViT's configuration.
      keep: how many of the tokens, from the first, go on after attention; 0: all.
    """

    config: ViTConfig
    keep: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, tuner: Tuner, place: Place, drop_rate: Any) -> jax.Array:
        cfg = self.config
        heads, bias = cfg.num_heads, cfg.qkv_bias
        attention = Attention(heads, bias, cfg.dtype, self.keep, name='attn')
        mlp = Mlp(cfg.mlp_dim, cfg.dtype, name='mlp')
        return pre_norm_block(
            x,
            partial(attention, tuner=tuner, place=place),
            partial(mlp, tuner=tuner, place=place),
            tuner,
            place,
            drop_rate,
            norm_epsilon=cfg.norm_epsilon,
            drops=cfg.drop_path_rate > 0.0,
            layer_scale=cfg.layer_scale,
            keep=self.keep,
        )


class ViT(nn.Module):
    """The backbone: images to pooled features, or any stretch of that way.

    Attributes:
      config: its configuration.
      seams: layers at which the stacked blocks are cut into segments.
    """

    config: ViTConfig
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
            [B, C + N, D] that enter block `start`.
          tuner: answers the hooks; None adds nothing.
          tuner_params: the tuner's parameters, {'shared': ..., 'layers': leaves [L, ...]}, and its
            probes as {'probe': ...} where it has any.
          key: random key for dropout and drop path; None: nothing is random.
          train: whether this is a training step.
          start: where x stands. A block must be a seam, or 0.
          stop: FEATURES for pooled features, or the block whose input is wanted (a seam, or 0).
          bare_patches: return the patch embeddings [B, N, D] before positions.

        Returns:
          Features [B, D] float32, or tokens [B, C + P + N, D], P = 0 before a block with prompts of
          its own.

        Raises:
          ValueError: images of another size, or a start or stop that is no seam.
        """
        tuner, params = tuner or Tuner(), tuner_params or {}
        depth = self.config.depth
        seams = (*self.config.seams, *self.seams)
        check_cuts('ViT', depth, (0, depth, *seams), start, stop)
        place = Place.outside(params, x if start.at_image else None, key, train)
        if start.at_image:
            x = self._embed(tuner.image(place, x), bare_patches, tuner, place)
        if bare_patches:
            return x
        if start.at_image and train and key is not None and self.config.patch_drop_rate:
            x = _drop_patches(key, x, self.config)
        for first, last in segments(depth, seams):
            inside = first >= max(start.block, 0) and last <= stop.block
            if not (inside or self.is_initializing()):
                continue  # a prefix needs no parameters beyond its stop
            blocks = self.param(segment_name(first, last), partial(self._init_blocks, last - first))
            if inside:
                x = self._run(blocks, x, tuner, params, place, (first, last))
        if stop.block >= depth:
            x = self._pool(x, tuner, place)
        return x

    def _embed(
        self, images: jax.Array, bare_patches: bool, tuner: Tuner, place: Place
    ) -> jax.Array:
        """Images [B, H, W, 3] to tokens [B, C + N, D] with positions."""
        cfg = self.config
        check_images('ViT', images, cfg.image_size)
        x = PatchEmbed(cfg.patch_size, cfg.width, cfg.dtype, name='patch_embed')(images)
        x = tuner.after(place, 'patch_embed', images, x.astype(jnp.float32))  # [B, N, D]
        if bare_patches:
            return x
        shape = (1, cfg.grid**2 + int(cfg.class_position), cfg.width)
        init = nn.initializers.normal(0.02)
        positions = self.param('pos_embed', init, shape).astype(x.dtype)
        lead = []
        if cfg.class_token:
            token = self.param('cls_token', init, (1, 1, cfg.width)).astype(x.dtype)
            lead.append(token + positions[:, :1] if cfg.class_position else token)
        if cfg.num_registers:
            shape = (1, cfg.num_registers, cfg.width)
            lead.append(self.param('register_tokens', init, shape).astype(x.dtype))
        x = x + positions[:, int(cfg.class_position) :]
        lead = [jnp.broadcast_to(token, (x.shape[0], *token.shape[1:])) for token in lead]
        return jnp.concatenate([*lead, x], axis=1)  # [B, C + N, D]

    def _init_blocks(self, count: int, key: jax.Array) -> Tree:
        block, dummy = Block(self.config, parent=None), jnp.zeros((1, 2, self.config.width))
        make = lambda k: block.init(k, dummy, Tuner(), Place(), 0.0)['params']  # noqa: E731
        return jax.vmap(make)(jax.random.split(key, count))

    def _run(self, blocks, x, tuner, params, place, span):
        """Runs the blocks of one segment."""
        cfg = self.config
        last = span == (cfg.depth - 1, cfg.depth)
        alone = last and cfg.pool == 'cls' and not tuner.facts(cfg.spec()).needs_tokens
        block = Block(cfg, int(alone), parent=None)

        def apply(weights: Tree, x: jax.Array, here: Place, rate: Any) -> jax.Array:
            out: Any = block.apply({'params': weights}, x, tuner, here, rate)
            return out

        rates = jnp.linspace(0.0, cfg.drop_path_rate, cfg.depth)
        seams = (*cfg.seams, *self.seams)
        stack = Stack(cfg.spec(), seams, rates, cfg.remat, cfg.scan and not alone)
        return stack.run(apply, blocks, x, tuner, params, place, span)

    def _pool(self, x: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """Tokens [B, C + P + N, D] to features [B, D] float32."""
        cfg = self.config
        facts = tuner.facts(cfg.spec())
        num_prompts = facts.prompt_length if facts.prompt_layers else 0
        layer_norm = nn.LayerNorm(epsilon=cfg.norm_epsilon, dtype=jnp.float32, name='norm')

        def norm(tokens):
            return tuner.after(place, 'norm', tokens, layer_norm(tokens))

        first = cfg.num_lead + (0 if cfg.pool == 'mean_prompts' else num_prompts)
        if not cfg.norm_after_pool:
            kept = norm(x[:, :1] if cfg.pool == 'cls' else x[:, first:])
            features = jnp.mean(kept, axis=1)
        elif cfg.pool == 'cls':
            features = norm(x[:, 0])
        else:
            features = norm(jnp.mean(x[:, first:].astype(jnp.float32), axis=1))
        return tuner.pool(place, layer_norm(x), features) if facts.needs_tokens else features


def visible_patches(key: jax.Array, count: int, config: ViTConfig) -> jax.Array:
    """Draws which patches of each image a training step keeps.

    Args:
      key: the key that the network gets.
      count: B, number of images.
      config: the ViT; `patch_drop_rate` is the share of patches that is left out.

    Returns:
      [B, kept] int32, in the order of the patches; as many for every image.
    """
    kept = max(1, round(config.grid**2 * (1.0 - config.patch_drop_rate)))
    scores = jax.random.uniform(jax.random.fold_in(key, 2), (count, config.grid**2))
    return jnp.sort(jax.lax.top_k(scores, kept)[1], axis=1)


def _drop_patches(key: jax.Array, x: jax.Array, cfg: ViTConfig) -> jax.Array:
    """Keeps a random subset of each image's patch tokens."""
    index = visible_patches(key, x.shape[0], cfg)[:, :, None]  # [B, kept, 1]
    patches = jnp.take_along_axis(x[:, cfg.num_lead :], index, axis=1)
    return jnp.concatenate([x[:, : cfg.num_lead], patches], axis=1)  # [B, C + kept, D]


def adapt(tree: Tree, config: ViTConfig, seams: tuple[int, ...] = (), put: Put = keep) -> Tree:
    """Turns a checkpoint's per-layer tree into the running form of `config`.

    Args:
      tree: `block_00/...` form (`weights.load`), positions at the checkpoint's own grid.
      config: the ViT to run; its image size sets the grid.
      seams: as in `ViT`.
      put: as in `core.tree.stack_layers`.

    Returns:
      The tree that `ViT(config, seams)` takes, positions resized (bicubic, antialiased).
    """
    positions = jnp.asarray(tree['pos_embed'])
    rows = int(config.class_position)
    grid = resize_positions(positions[:, rows:], config.grid)
    return stack_layers(
        {**tree, 'pos_embed': jnp.concatenate([positions[:, :rows], grid], axis=1)},
        (*config.seams, *seams),
        put,
    )


def run_block(
    config: ViTConfig, blocks: Tree, x: jax.Array, layer: jax.Array, first: int = 0
) -> jax.Array:
    """Runs one frozen block, without a tuner, on all its tokens.

    Args:
      config: the ViT.
      blocks: the stacked blocks of a single segment, leaves [L, ...].
      x: tokens entering the block, [B, T, D].
      layer: index of the block among these; may be traced, so that one program serves all layers.
      first: index of the first of these blocks, which are all alike here.

    Returns:
      The tokens leaving it, [B, T, D].
    """
    del first
    weights = jax.tree.map(lambda leaf: leaf[layer], blocks)
    out: Any = Block(config, parent=None).apply({'params': weights}, x, Tuner(), Place(), 0.0)
    return out
