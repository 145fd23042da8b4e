"""Visual prompt tuning: learned tokens beside the patches of a frozen transformer.

Jia et al., "Visual Prompt Tuning", arXiv:2203.12119. Shallow (eq. 4, 5): P prompts enter block 1
and pass through the others. Deep (eq. 6, 7): each block has P prompts of its own. They replace the
outputs of the prompts of the block before. Trainable scalars: P * D shallow, L * P * D deep. If
stages differ in width, the count is the sum over stages.

In a Swin prompts enter every window. After the block each prompt is averaged over the windows.
Between stages four patches are joined and merged; a prompt is joined with itself four times and
merged like them.

SPT is the same tuner. Its prompts are calibrated from the task's own tokens (`calibrate/spt.py`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jax_prompt.core.facts import Facts
from jax_prompt.core.ranges import at_least, check_values, share
from jax_prompt.core.spec import BackboneSpec, Cut
from jax_prompt.core.staged import per_stage
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.nn.layers import dropout


@dataclass(frozen=True)
class VPT(Tuner):
    """Learned prompts, shallow or deep.

    Attributes:
      num_prompts: number of prompts P of a layer.
      deep: True gives every block prompts of its own.
      dropout_rate: share of prompt elements that is dropped in training (the released code: 0.1
        deep, 0 shallow).
      faithful: True does what the released code does in a Swin. If a stage has several windows, a
        window then gets the prompts of another image of the batch, and averages are over windows of
        other images. So results depend on the batch.
    """

    num_prompts: int = at_least(10, 1, 10_000)
    deep: bool = True
    dropout_rate: float = share(0.0)
    faithful: bool = False

    def __post_init__(self):
        check_values(self)

    def facts(self, spec: BackboneSpec) -> Facts:
        """States prompts at all layers (deep) or the first (shallow)."""
        own = super().facts(spec)
        dropped = 'prompt dropout draws its masks by the number of prompts'
        masked = type(self) is VPT  # a subclass does more with its prompts than stand among tokens
        constant = masked and not self.dropout_rate and not self.faithful
        return replace(
            own,
            cut=Cut(0),
            prompt_layers=range(spec.num_layers if self.deep else 1),
            prompt_length=self.num_prompts,
            constant=constant,
            mixes_images=self.faithful,
            mask_obstacle=(dropped if self.dropout_rate else '') if masked else own.mask_obstacle,
        )

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns prompts uniform in +-sqrt(6 / (3 p^2 + D)), the released code's Xavier bound.

        D is that of the first stage for all, as in that code.

        Raises:
          ValueError: `faithful` on a backbone where nothing differs.
        """
        if self.faithful and not spec.windowed:
            raise ValueError(
                f'faithful is True; the released code departs from the paper on a Swin alone, and '
                f'this is a {spec.family}: allowed: False'
            )
        bound = math.sqrt(6.0 / (3 * spec.patch_size**2 + spec.width))

        def make(key: jax.Array, stage: BackboneSpec) -> Tree:
            layers = (stage.num_layers,) if self.deep else ()
            shape = (*layers, self.num_prompts, stage.width)
            return {'prompts': jax.random.uniform(key, shape, jnp.float32, -bound, bound)}

        if self.deep:
            return {'layers': per_stage(key, spec, make)}
        return {'shared': make(key, spec)}

    def calibrated(self, params: Tree, prompts: Any) -> Tree:
        """Returns the parameters with these prompts, [L, P, D] deep or [1, P, D] shallow."""
        values = jnp.asarray(prompts, jnp.float32)

        def place(own: Tree, layers: slice) -> Tree:
            width = own['prompts'].shape[-1]
            return {**own, 'prompts': values[layers, :, :width]}

        if self.deep:
            return {**params, 'layers': by_stage(params['layers'], place)}
        shared = params['shared']
        return {
            **params,
            'shared': {**shared, 'prompts': values[0, :, : shared['prompts'].shape[-1]]},
        }

    def prompts(self, place: Place, tokens: jax.Array) -> jax.Array:
        """Returns this layer's prompts [1 or B, P, D]; with dropout each image has its own mask."""
        prompts = (place.params if self.deep else place.shared)['prompts'][None]  # [1, P, D]
        if not (place.train and self.dropout_rate):
            return prompts
        prompts = jnp.broadcast_to(prompts, (tokens.shape[0], *prompts.shape[1:]))
        key = None if place.key is None else jax.random.fold_in(place.key, 0)
        return dropout(key, prompts, self.dropout_rate)

    def key_bias(self, place: Place, num_keys: int) -> jax.Array | None:
        """Leaves out prompts past `place.shared['length']`, an int32 scalar, where it is there.

        It is where trainings of unlike lengths share a program (`search/padding.py`): each has
        `num_prompts` prompts there, and those past its own length are zeros.
        """
        length = place.shared.get('length')
        if length is None:
            return None
        first, number = place.prompts_at
        index = jnp.arange(num_keys) - first  # of the prompt that is the key
        return jnp.where((index >= length) & (index < number), -jnp.inf, 0.0)


def by_stage(layers: Tree, change: Callable[[Tree, slice], Tree]) -> Tree:
    """Returns the leaves of layers with prompts changed, stage after stage where there are stages.

    Args:
      layers: the parameters under 'layers'.
      change: maps a stage's leaves [L, ...], and which of all layers these are, to new leaves.
    """
    if 'prompts' in layers:
        return change(layers, slice(None))
    out, start = {}, 0
    for name in sorted(layers):
        stop = start + layers[name]['prompts'].shape[0]
        out[name] = change(layers[name], slice(start, stop))
        start = stop
    return out
