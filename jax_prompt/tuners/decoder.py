"""The decoder of a masked autoencoder: from the tokens of visible patches to all pixels.

He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv:2111.06377, section 3. Only
pretraining uses it (`train/masked.py`). It is a tuner with no hooks, so its parameters stand beside
the backbone's and the classifier's logits are those of the backbone alone.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.core.spec import BackboneSpec
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.nn.transformer import Attention, Mlp, pre_norm_block
from jax_prompt.tuners.whole import Whole

EPSILON = 1e-6


class DecoderNetwork(nn.Module):
    """Visible tokens to the pixels of every patch.

    Attributes:
      width: d, width of its tokens.
      depth: number of blocks.
      num_heads: attention heads.
      num_patches: N, patches of an image; a square number.
      pixels: numbers of a patch, p * p * 3.
    """

    width: int
    depth: int
    num_heads: int
    num_patches: int
    pixels: int

    @nn.compact
    def __call__(self, tokens: jax.Array, index: jax.Array) -> jax.Array:
        """Fills in the masked patches and predicts all of them.

        Args:
          tokens: final tokens of the encoder, [B, C + V, D]; the last V are visible patches.
          index: the place of each visible patch among the N, [B, V] int32.

        Returns:
          [B, N, p * p * 3].
        """
        visible = index.shape[1]
        x = nn.Dense(self.width, kernel_init=nn.initializers.xavier_uniform(), name='embed')(tokens)
        lead, patches = x[:, :-visible], x[:, -visible:]
        mask_token = self.param('mask_token', nn.initializers.normal(0.02), (self.width,))
        place = jax.nn.one_hot(index, self.num_patches, dtype=x.dtype)  # [B, V, N]
        hidden = 1.0 - jnp.sum(place, axis=1)  # [B, N], 1 where a patch is masked
        grid = jnp.einsum('bvn,bvd->bnd', place, patches) + hidden[:, :, None] * mask_token
        grid = grid + grid_positions(self.num_patches, self.width)
        x = jnp.concatenate([lead, grid], axis=1)  # [B, C + N, d]
        for layer in range(self.depth):
            x = _Block(self.width, self.num_heads, name=f'block_{layer:02d}')(x)
        x = nn.LayerNorm(epsilon=EPSILON, name='norm')(x[:, -self.num_patches :])
        return nn.Dense(self.pixels, kernel_init=nn.initializers.xavier_uniform(), name='pixels')(x)


class _Block(nn.Module):
    """A pre-norm block without hooks, its MLP four times as wide."""

    width: int
    num_heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hooks: dict[str, Any] = {'tuner': Tuner(), 'place': Place()}
        attention = Attention(self.num_heads, True, 'float32', name='attn')
        mlp = Mlp(4 * self.width, 'float32', name='mlp')
        branches = partial(attention, **hooks), partial(mlp, **hooks)
        return pre_norm_block(
            x, *branches, Tuner(), Place(), 0.0, norm_epsilon=EPSILON, drops=False
        )


def grid_positions(num_patches: int, width: int) -> np.ndarray:
    """Returns fixed sines and cosines of a square grid's rows and columns, [N, width] float32.

    A quarter of the channels holds the sine of the row, a quarter its cosine, likewise columns,
    with wavelengths from 2 pi to 20,000 pi (arXiv:2111.06377, appendix A.1).
    """
    side, quarter = round(num_patches**0.5), width // 4
    rates = 10_000.0 ** (-np.arange(quarter) / quarter)
    angles = np.arange(side)[:, None] * rates  # [side, d / 4]
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)  # [side, d / 2]
    rows, columns = np.repeat(waves, side, axis=0), np.tile(waves, (side, 1))
    return np.concatenate([rows, columns], axis=1).astype(np.float32)


@dataclass(frozen=True)
class MaskedDecoder(Whole):
    """Holds the decoder's parameters. It has no hooks; the whole backbone trains with it.

    Attributes:
      width: width of the decoder's tokens, a multiple of 4.
      depth: number of the decoder's blocks.
      num_heads: attention heads of the decoder.
    """

    width: int = 64
    depth: int = 2
    num_heads: int = 2

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        visible = jnp.zeros((1, 1), jnp.int32)
        tokens = jnp.zeros((1, spec.num_lead + 1, spec.width))
        return {'shared': self._network(spec).init(key, tokens, visible)['params']}

    def merged(self, backbone: Tree, params: Tree, spec: BackboneSpec) -> Tree:
        """Returns the backbone as it is: the decoder is left behind."""
        del params, spec
        return backbone

    def reconstruct(
        self, params: Tree, tokens: jax.Array, index: jax.Array, spec: BackboneSpec
    ) -> jax.Array:
        """Predicts all patches [B, N, p * p * 3]; arguments as those of `DecoderNetwork`."""
        variables = {'params': params['shared']}
        out = self._network(spec).apply(variables, tokens.astype(jnp.float32), index)
        assert isinstance(out, jax.Array)
        return out

    def _network(self, spec: BackboneSpec) -> DecoderNetwork:
        pixels = 3 * spec.patch_size**2
        return DecoderNetwork(self.width, self.depth, self.num_heads, spec.num_patches, pixels)
