"""Vision Transformer: one file for all methods and all checkpoints.

Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv:2010.11929; with what MAE (mean pooling,
norm after it), DINOv2 (layer scale, arXiv:2304.07193) and its registers (arXiv:2309.16588) need.

Tokens stand in the order class token, registers, prompts, patches. The last block is a segment of
its own: where the class token alone is pooled, it computes that token alone, and of the others keys
and values.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_prompt.backbones import stack
from jax_prompt.backbones.stack import Blocks, Stacked
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.facts import Facts
from jax_prompt.core.tree import Put, Tree, keep
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


class ViT(Stacked):
    """The backbone, see `Stacked`."""

    config: ViTConfig

    def embed(self, images: jax.Array, tuner: Tuner, place: Place, bare_patches: bool) -> jax.Array:
        """Maps images [B, H, W, 3] to tokens [B, C + N, D] with positions."""
        cfg = self.config
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
        x = jnp.concatenate([*lead, x], axis=1)  # [B, C + N, D]
        if place.train and place.key is not None and cfg.patch_drop_rate:
            x = _drop_patches(place.key, x, cfg)
        return x

    def blocks(self, span: tuple[int, int], facts: Facts) -> Blocks:
        """Returns the blocks of a segment. The last computes the class token alone where it can."""
        cfg = self.config
        last = span == (cfg.depth - 1, cfg.depth)
        alone = last and cfg.pool == 'cls' and not facts.needs_tokens
        return Blocks(Block(cfg, int(alone), parent=None), (1, 2, cfg.width), not alone)

    def pool(self, x: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """Maps tokens [B, C + P + N, D] to features [B, D] float32."""
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
    """Resizes the positions (bicubic, antialiased) to the grid of `config`, and stacks the blocks.

    Arguments and result as of `stack.adapt`.
    """
    positions = jnp.asarray(tree['pos_embed'])
    rows = int(config.class_position)
    grid = resize_positions(positions[:, rows:], config.grid)
    positions = jnp.concatenate([positions[:, :rows], grid], axis=1)
    return stack.adapt({**tree, 'pos_embed': positions}, config, seams, put)
