"""The parts of a transformer block, with the tuner's hooks at their named operations."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.nn.attention import attend, join_heads, split_heads
from jax_prompt.nn.layers import drop_path, gelu, patches
from jax_prompt.nn.products import Dense, product


class Attention(nn.Module):
    """Multi-head self-attention with the hooks at qkv, at the product and at proj.

    Attributes:
      num_heads: H.
      qkv_bias: whether the joint projection has a bias.
      dtype: dtype of the products.
      keep: how many of the tokens, from the first, ask and are returned; 0: all, but for prompts
        that end here.
    """

    num_heads: int
    qkv_bias: bool
    dtype: str
    keep: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """Maps tokens [B, T, D] to those that go on, [B, R, D]."""
        width = x.shape[-1]
        qkv = Dense(3 * width, self.qkv_bias, self.dtype, name='qkv')(x)
        qkv = checkpoint_name(tuner.after(place, 'qkv', x, qkv), 'qkv')  # [B, T, 3D]
        q, k, v = tuner.attention(place, *split_heads(qkv, self.num_heads))
        bias = tuner.key_bias(place, k.shape[2])
        y = join_heads(attend(_going_on(q, self.keep, place), k, v, bias))  # [B, R, D]
        z = Dense(width, dtype=self.dtype, name='proj')(y)
        return tuner.after(place, 'proj', y, z)


def _going_on(x: jax.Array, keep: int, place: Place) -> jax.Array:
    """Returns the tokens [..., R, D] of x [..., T, D] that go on after attention."""
    if keep:
        return x[..., :keep, :]
    return place.without_prompts(x) if place.prompts_end else x


class Mlp(nn.Module):
    """Dense, exact GELU, dense, with the hooks at fc1 and fc2.

    Attributes:
      hidden: M, the hidden width.
      dtype: dtype of the products.
    """

    hidden: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        h = Dense(self.hidden, dtype=self.dtype, name='fc1')(x)
        h = gelu(checkpoint_name(tuner.after(place, 'fc1', x, h), 'fc1'))  # [B, T, M]
        z = Dense(x.shape[-1], dtype=self.dtype, name='fc2')(h)
        return tuner.after(place, 'fc2', h, z)


class LayerScale(nn.Module):
    """Scales each channel of a residual branch. Touvron et al., CaiT, arXiv:2103.17239.

    Attributes:
      start: initial value.
    """

    start: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param('scale', nn.initializers.constant(self.start), (x.shape[-1],))
        return x * scale.astype(x.dtype)


def pre_norm_block(
    x: jax.Array,
    attention: Callable[[jax.Array], jax.Array],
    mlp: Callable[[jax.Array], jax.Array],
    tuner: Tuner,
    place: Place,
    drop_rate: Any,
    *,
    norm_epsilon: float,
    drops: bool,
    layer_scale: bool = False,
    keep: int = 0,
) -> jax.Array:
    """Computes x + attention(ln1(x)), then x + mlp(ln2(x)), with the tuner's hooks.

    For a compact method: the norms 'ln1' and 'ln2' and the scales 'ls1' and 'ls2' become submodules
    of the module that calls it.

    Args:
      x: tokens [B, T, D].
      attention: maps normalised tokens [B, T, D] to the first branch, of the R tokens that go on.
      mlp: maps normalised tokens [B, R, D] to the second branch [B, R, D].
      tuner: answers the hooks.
      place: the layer.
      drop_rate: the layer's drop path rate; may be traced.
      norm_epsilon: epsilon of both norms.
      drops: whether any layer of the backbone has a drop path rate above 0.
      layer_scale: whether each branch is scaled per channel.
      keep: how many of the tokens, from the first, go on after attention; 0: all, but for prompts
        that end here.

    Returns:
      Tokens [B, R, D].
    """
    keys: Any = (None, None)
    if drops and place.train and place.key is not None:
        keys = jax.random.split(jax.random.fold_in(place.key, 1), 2)

    def residual(x, index, site, branch, going_on):
        norm = nn.LayerNorm(epsilon=norm_epsilon, dtype=jnp.float32, name=f'ln{index}')
        y = tuner.after(place, f'ln{index}', x, norm(x))
        z, x, y = branch(y), going_on(x), going_on(y)
        z = LayerScale(name=f'ls{index}')(z) if layer_scale else z
        z = tuner.after(place, site, y, z)
        x = tuner.after(place, f'shortcut{index}', x, x)
        return x + drop_path(keys[index - 1], z, drop_rate).astype(x.dtype)

    def going_on(tokens: jax.Array) -> jax.Array:
        return _going_on(tokens, keep, place)

    middle = checkpoint_name(residual(x, 1, 'attn', attention, going_on), 'mid')
    out = residual(middle, 2, 'mlp', mlp, lambda tokens: tokens)
    return tuner.after(place, 'block', going_on(x), out)


class PatchEmbed(nn.Module):
    """The patch embedding as a product, its kernel in the convolution's shape [p, p, C, D].

    Attributes:
      patch_size: p, side of a patch in pixels.
      width: D.
      dtype: dtype of the product.
    """

    patch_size: int
    width: int
    dtype: str

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images [B, H, W, C] to patch embeddings [B, N, D]."""
        shape = (self.patch_size, self.patch_size, images.shape[-1], self.width)
        init = nn.initializers.lecun_normal(in_axis=(0, 1, 2))
        kernel = self.param('kernel', init, shape)
        bias = self.param('bias', nn.initializers.zeros, (self.width,))
        x = patches(images.astype(self.dtype), self.patch_size)  # [B, N, p * p * C]
        return product(x, kernel.reshape(-1, self.width)) + bias.astype(x.dtype)
