"""E2VPT: prompts at the input of each block and among the keys and values of its attention.

Han et al., "E^2VPT: An Effective and Efficient Approach for Visual Prompt Tuning",
arXiv:2307.13770, and its released code. Each block has P input prompts as in VPT-deep and M
key-value prompts, [H, M, d], one set for keys and values alike, which join the projected keys and
values:

    softmax(q [k, p]^T / sqrt(d)) [v, p]

so that the sequence does not grow. Trainable scalars: L * (P + M) * D.

Training has two stages. The first trains everything; then the least important input prompts and
segments of prompts go (`tuners/pruning.py`); the second starts again from the same initial values
with the rest. The second stage is this tuner with the same seed and the option `kept`: initial
values are drawn for all P prompts, and what `kept` leaves is what the first stage started from.

A pruned token is gone: the sequence is shorter. (The released code multiplies it by zero; the
token then still takes part in attention, through the norm's bias.) A pruned segment is zero and
stays zero.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.core.facts import Facts
from jax_prompt.core.ranges import at_least
from jax_prompt.core.spec import BackboneSpec
from jax_prompt.core.staged import per_stage
from jax_prompt.core.tree import Tree, merge
from jax_prompt.core.tuner import Place
from jax_prompt.nn.layers import dropout
from jax_prompt.tuners.pruning import Kept, Masks, apply_mask, check_kept, freeze
from jax_prompt.tuners.vpt import VPT, by_stage


@dataclass(frozen=True)
class E2VPT(VPT):
    """Deep input prompts and key-value prompts, whole or pruned.

    Attributes:
      num_prompts: number of input prompts P of a layer before pruning.
      deep: True; there is no other form.
      dropout_rate: share of elements of both kinds of prompts that is dropped in training.
      num_kv_prompts: number of key-value prompts M of a layer (the paper usually takes 5).
      kept: what pruning left, [L, P, R] of 0 and 1 as `pruning.prune` returns it; (): everything.
    """

    deep: bool = True
    num_kv_prompts: int = at_least(5, 1, 10_000)
    kept: Kept = ()

    def __post_init__(self):
        super().__post_init__()
        if not self.deep:
            raise ValueError('deep is False; each block has its own prompts: allowed: True')
        object.__setattr__(self, 'kept', freeze(self.kept))  # a saved config has lists
        if self.kept:
            check_kept(self.kept, self.num_prompts)

    def facts(self, spec: BackboneSpec) -> Facts:
        """States VPT's facts, with as many prompts a layer as pruning left."""
        own = super().facts(spec)
        return replace(own, prompt_length=self._kept()[0].shape[1]) if self.kept else own

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns {'layers': {'prompts' [L, P kept, D], 'kv_prompts' [L, H, M, D/H]}}, float32.

        Key-value prompts are Kaiming-uniform as torch counts: +-sqrt(6 / (M d)), d = D/H.

        Raises:
          ValueError: a backbone without attention, or one that `kept` does not fit.
        """
        if not spec.num_heads:
            raise ValueError(f'{spec.family} has no attention heads; key-value prompts need them')
        key, kv_key = jax.random.split(key)
        layers = super().init(key, spec)['layers']  # prompts [L, P, D]
        if self.kept:
            kept = np.asarray(self.kept)
            if len(kept) != spec.num_layers or spec.width % kept.shape[-1]:
                raise ValueError(
                    f'kept is for {len(kept)} layers and {kept.shape[-1]} segments; this backbone '
                    f'has {spec.num_layers} layers of width {spec.width}'
                )
            layers = by_stage(layers, self._keep)
        return {'layers': merge(layers, per_stage(kv_key, spec, self._init_kv))}

    def _init_kv(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        depth = spec.width // spec.num_heads
        shape = (spec.num_layers, spec.num_heads, self.num_kv_prompts, depth)
        bound = math.sqrt(6.0 / (self.num_kv_prompts * depth))
        return {'kv_prompts': jax.random.uniform(key, shape, jnp.float32, -bound, bound)}

    def _keep(self, own: Tree, layers: slice) -> Tree:
        """Returns what is kept of the prompts [L, P, D] of these layers."""
        rows, segments = (jnp.asarray(array[layers]) for array in self._kept())
        prompts = jnp.take_along_axis(own['prompts'], rows[:, :, None], axis=1)
        return {**own, 'prompts': apply_mask(prompts, segments.astype(jnp.float32))}

    def _kept(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the kept tokens' indices [L, P kept] and segments [L, P kept, R]."""
        kept = np.asarray(self.kept)
        rows = np.stack([np.flatnonzero(layer.any(axis=-1)) for layer in kept])
        return rows, np.take_along_axis(kept, rows[:, :, None], axis=1)

    def num_active(self, spec: BackboneSpec) -> int:
        """Returns the scalars that act; with pruned segments fewer than the leaves hold."""
        runs = spec.runs().values()
        widths = np.concatenate([np.full(run.num_layers, run.width) for run in runs])  # [L]
        shares = np.full(len(widths), float(self.num_prompts))
        if self.kept:
            kept = np.asarray(self.kept)
            shares = kept.sum(axis=(1, 2)) / kept.shape[-1]
        return round(float(widths @ (shares + self.num_kv_prompts)))

    def prompts(self, place: Place, tokens: jax.Array) -> jax.Array:
        """Returns this layer's prompts [1 or B, P kept, D], masked."""
        prompts = super().prompts(place, tokens)
        if self.kept:
            segments = jnp.asarray(self._kept()[1], jnp.float32)[place.layer]  # [P kept, R]
            prompts = apply_mask(prompts, segments)
        masks = place.params.get('masks')
        if masks is not None:
            prompts = apply_mask(prompts, masks['tokens'][..., None] * masks['segments'])
        return prompts

    def attention(
        self, place: Place, q: jax.Array, k: jax.Array, v: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Appends the key-value prompts to keys and values, [B, H, T + M, D/H]."""
        prompts = place.params['kv_prompts']  # [H, M, d]
        prompts = jnp.broadcast_to(prompts, (k.shape[0], *prompts.shape)).astype(k.dtype)
        keys: Any = (None, None)
        if place.train and self.dropout_rate and place.key is not None:
            keys = jax.random.split(jax.random.fold_in(place.key, 2), 2)
        to_k, to_v = (dropout(key, prompts, self.dropout_rate) for key in keys)
        return q, jnp.concatenate([k, to_k], axis=2), jnp.concatenate([v, to_v], axis=2)


def with_masks(params: Mapping[str, Any], masks: Masks) -> Tree:
    """Returns E2VPT's parameters with masks, [L, B or 1, P] and [L, B or 1, P, R], on its prompts.

    For `pruning.importance`; masks are no parameters and are never trained.
    """

    def add(own: Tree, layers: slice) -> Tree:
        return {**own, 'masks': {name: mask[layers] for name, mask in masks._asdict().items()}}

    return {**params, 'layers': by_stage(dict(params['layers']), add)}
