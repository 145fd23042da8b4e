"""Attention within windows of a grid of patches, shifted or not, with prompts in every window.

Liu et al., "Swin Transformer", arXiv:2103.14030, section 3.2: windows of w x w patches; every other
layer's are shifted by w // 2, cyclically, and a mask keeps patches apart that only the cycle brings
together; a learned bias depends on the distance of two patches. A grid that w does not divide is
padded on its far sides before it is shifted (as torchvision and transformers do; timm shifts
first). Padding takes part in attention as the projection of zeros, as in all three.

Which patch stands where is a table of indices, so that shift, padding and partition are one gather
and a layer's own tables can be chosen inside a scan. Projections act on single tokens, so they run
on the grid, once for each token, and only their outputs go to windows.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.nn.attention import attend_windows, join_heads, split_heads
from jax_prompt.nn.products import Dense

_APART = -100.0  # added to scores of patches that do not belong together, as all sources have it


class Windows(NamedTuple):
    """How the patches of a grid stand in windows.

    Attributes:
      table: [W * T] int32: the patch at each place of each window; N where there is padding.
      inverse: [N] int32: the place of each patch.
      region: [W, T] int32: places of unlike regions in a window do not see each other; None where
        all see all.
    """

    table: Any
    inverse: Any
    region: Any


@cache
def plain_and_shifted(grid: int, window: int) -> Windows:
    """Returns the windows of plain and of shifted layers, leaves stacked [2, ...].

    Args:
      grid: patches along one side.
      window: patches along one side of a window; up to `grid`.

    Returns:
      Numpy leaves; [1, ...] and without regions where one window covers the grid.
    """
    if window >= grid:
        table, inverse, _ = _arranged(grid, window, 0)
        return Windows(table[None], inverse[None], None)
    both = [_arranged(grid, window, shift) for shift in (0, window // 2)]
    table, inverse, region = map(np.stack, zip(*both, strict=True))
    return Windows(table, inverse, region)


def _arranged(grid: int, window: int, shift: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    side = math.ceil(grid / window) * window
    at = (np.arange(side) + shift) % side  # the patch row that the shift brings to each row
    patch = at[:, None] * grid + at[None, :]
    patch[(at[:, None] >= grid) | (at[None, :] >= grid)] = grid * grid
    band = np.zeros(side, np.int32)
    if shift:
        band[side - window : side - shift], band[side - shift :] = 1, 2
    region = band[:, None] * 3 + band[None, :]

    def cut(x: np.ndarray) -> np.ndarray:
        x = x.reshape(side // window, window, side // window, window)
        return x.swapaxes(1, 2).reshape(-1, window * window).astype(np.int32)  # [W, T]

    table = cut(patch).reshape(-1)
    inverse = np.empty(grid * grid, np.int32)
    real = table < grid * grid
    inverse[table[real]] = np.flatnonzero(real)
    return table, inverse, cut(region)


@jax.custom_vjp
def to_windows(x: jax.Array, table: jax.Array, inverse: jax.Array) -> jax.Array:
    """Gathers patches [B, N, D], or [B, N + 1, D] with what padding is, as [B, W * T, D].

    Its gradient is the inverse gather; a scatter would be slower.
    """
    del inverse
    return jnp.take(x, table, axis=1)


def _to_windows_forward(x, table, inverse):
    return to_windows(x, table, inverse), (table, inverse, x.shape[1])


def _to_windows_backward(kept, g):
    table, inverse, length = kept
    patches = jnp.take(g, inverse, axis=1)
    if length > inverse.shape[0]:
        padding = jnp.where((table == inverse.shape[0])[:, None], g, 0)
        patches = jnp.concatenate([patches, jnp.sum(padding, axis=1, keepdims=True)], axis=1)
    return patches, None, None


to_windows.defvjp(_to_windows_forward, _to_windows_backward)


@jax.custom_vjp
def from_windows(x: jax.Array, table: jax.Array, inverse: jax.Array) -> jax.Array:
    """Gathers the patches [B, N, D] back from their places [B, W * T, D]; padding is dropped."""
    del table
    return jnp.take(x, inverse, axis=1)


def _from_windows_forward(x, table, inverse):
    return from_windows(x, table, inverse), (table, inverse)


def _from_windows_backward(kept, g):
    table, inverse = kept
    if table.shape[0] > inverse.shape[0]:
        g = jnp.concatenate([g, jnp.zeros_like(g[:, :1])], axis=1)
    return jnp.take(g, table, axis=1), None, None


from_windows.defvjp(_from_windows_forward, _from_windows_backward)


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with the hooks at qkv, at the product and at proj.

    Attributes:
      num_heads: H.
      window: patches along one side of a window.
      qkv_bias: whether the joint projection has a bias.
      dtype: dtype of the products.
    """

    num_heads: int
    window: int
    qkv_bias: bool
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, tuner: Tuner, place: Place, windows: Windows) -> jax.Array:
        """Maps tokens [B, P + N, D], prompts first, to [B, P + N, D], or [B, N, D] if they end."""
        width = x.shape[-1]
        table, inverse, region = windows
        num_prompts, num_places = x.shape[1] - inverse.shape[0], table.shape[0]
        area = self.window**2  # T
        if num_places > inverse.shape[0]:
            x = jnp.concatenate([x, jnp.zeros_like(x[:, :1])], axis=1)  # what padding is
        qkv = Dense(3 * width, self.qkv_bias, self.dtype, name='qkv')(x)
        qkv = checkpoint_name(tuner.after(place, 'qkv', x, qkv), 'qkv')  # [B, P + N (+ 1), 3D]
        batch, count = x.shape[0], num_places // area  # B, W
        mixed = place.mixes_images
        patches = to_windows(qkv[:, num_prompts:], table, inverse).reshape(-1, area, 3 * width)
        prompts = _spread(qkv[:, :num_prompts], count, mixed)
        joined = jnp.concatenate([prompts, patches], axis=1)  # [B * W, P + T, 3D]
        q, k, v = tuner.attention(place, *split_heads(joined, self.num_heads))
        bias = self._bias(region, num_prompts, k.shape[2] - q.shape[2])
        asking = num_prompts if place.prompts_end else 0  # the first token that asks
        y = join_heads(attend_windows(q[:, :, asking:], k, v, bias[:, :, asking:]))
        prompts = _averaged(y[:, : num_prompts - asking], count, mixed)  # [B, P or 0, D]
        patches = y[:, num_prompts - asking :].reshape(batch, num_places, width)
        y = jnp.concatenate([prompts, from_windows(patches, table, inverse)], axis=1)
        z = Dense(width, dtype=self.dtype, name='proj')(y)
        return tuner.after(place, 'proj', y, z)

    def _bias(self, region: jax.Array | None, num_prompts: int, num_extra: int) -> jax.Array:
        """Returns what is added to scores, [W or 1, H, P + T, P + T + extra keys] float32.

        Prompts, and keys that the tuner appends, have no position: theirs is 0.
        """
        init = nn.initializers.truncated_normal(0.02)
        shape = ((2 * self.window - 1) ** 2, self.num_heads)
        table = self.param('relative_bias', init, shape).astype(jnp.float32)
        bias = jnp.moveaxis(table[_relative_index(self.window)], -1, 0)[None]  # [1, H, T, T]
        if region is not None:
            together = region[:, :, None] == region[:, None, :]  # [W, T, T]
            bias = bias + jnp.where(together, 0.0, _APART)[:, None]
        lead = (num_prompts, 0)
        return jnp.pad(bias, ((0, 0), (0, 0), lead, (num_prompts, num_extra)))


def _spread(prompts: jax.Array, count: int, mixed: bool) -> jax.Array:
    """Gives each of W windows its image's prompts: [B, P, D] to [B * W, P, D].

    `mixed`: in the order of the released VPT code, [W, B], though windows stand as [B, W].
    """
    axis = 0 if mixed else 1
    spread = jnp.repeat(jnp.expand_dims(prompts, axis), count, axis)  # [W, B, P, D] or [B, W, P, D]
    return spread.reshape(count * prompts.shape[0], *prompts.shape[1:])


def _averaged(prompts: jax.Array, count: int, mixed: bool) -> jax.Array:
    """Averages prompts [B * W, P, D] over windows, [B, P, D], in the order of `_spread`."""
    batch = prompts.shape[0] // count
    shape = (count, batch) if mixed else (batch, count)
    return jnp.mean(prompts.reshape(*shape, *prompts.shape[1:]), axis=0 if mixed else 1)


@cache
def _relative_index(window: int) -> np.ndarray:
    """Returns the row of the bias table for each pair of places, [T, T]."""
    rows, columns = np.divmod(np.arange(window * window), window)
    down = rows[:, None] - rows[None, :] + window - 1
    right = columns[:, None] - columns[None, :] + window - 1
    return down * (2 * window - 1) + right


def resize_relative_bias(table: np.ndarray, window: int) -> np.ndarray:
    """Resizes a table of relative position biases to another window, bicubic.

    As torch's `interpolate(mode='bicubic', align_corners=False)`, which the official Swin code and
    timm's `resize_rel_pos_bias_table_simple` use.

    Args:
      table: [(2v - 1)^2, H] of windows of v x v patches.
      window: w.

    Returns:
      [(2w - 1)^2, H] float32.

    Raises:
      ValueError: the rows are no square of an odd number.
    """
    rows, heads = table.shape
    source, target = math.isqrt(rows), 2 * window - 1
    if source * source != rows or source % 2 == 0:
        raise ValueError(
            f'{rows} relative position biases are of no square window; a window of w has (2w - 1)^2'
        )
    if source == target:
        return np.asarray(table)
    matrix = _bicubic(source, target)
    square = np.asarray(table, np.float64).reshape(source, source, heads)
    square = np.einsum('ys,xt,sth->yxh', matrix, matrix, square)
    return square.reshape(-1, heads).astype(np.float32)


def _bicubic(source: int, target: int) -> np.ndarray:
    """Returns the matrix [target, source] of cubic convolution with a = -0.75, edges repeated."""
    a = -0.75
    centre = (np.arange(target) + 0.5) * source / target - 0.5
    first = np.floor(centre).astype(int)
    out = np.zeros((target, source))
    for step in (-1, 0, 1, 2):
        x = np.abs(centre - (first + step))
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((x - 5) * x + 8) * x * a - 4 * a
        index = np.clip(first + step, 0, source - 1)
        np.add.at(out, (np.arange(target), index), np.where(x <= 1, near, far))
    return out
