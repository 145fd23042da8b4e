"""Gated visual prompt tuning: how much of each block the prompts take is learned.

Yoo et al., "Improving Visual Prompt Tuning for Self-supervised Vision Transformers",
arXiv:2306.05067, and its released code. Shallow prompts, and between blocks a gate, as many as
there are steps from one block to the next:

    prompts <- g * prompts out of the block + (1 - g) * prompts into it,   g = sigmoid(logit)

and in each block a learned temperature t of attention, softmax(q k^T / (sqrt(d) t)).

Logits start at -5, so that each block has the learned prompts themselves before it, nearly; t
starts at 1, the frozen network's. With all gates open (g = 1) it is VPT-shallow.

The released code clamps the stored temperatures to [0.01, 10] before each forward pass. Here the
clamp is part of the forward pass, and the gradient passes unless it leads further out, which is the
same projection up to the last step. Trainable scalars: P * D + (L - 1) + L.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jax_prompt.core.ranges import at_least, share
from jax_prompt.core.spec import BackboneSpec
from jax_prompt.core.staged import per_stage
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Place
from jax_prompt.tuners.vpt import VPT

FIRST_LOGIT = -5.0
COLDEST, HOTTEST = 0.01, 10.0


@dataclass(frozen=True)
class GatedVPT(VPT):
    """Shallow prompts with gates between blocks and attention temperatures.

    Attributes:
      num_prompts: number of prompts P (the paper: 100).
      deep: False; there is no other form.
      dropout_rate: share of prompt elements that is dropped in training (the released code: 0.1).
    """

    num_prompts: int = at_least(100, 1, 10_000)
    deep: bool = False
    dropout_rate: float = share(0.1)

    def __post_init__(self):
        super().__post_init__()
        if self.deep:
            raise ValueError('deep is True; gates act on prompts that stay: allowed: False')

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns {'shared': {'prompts', 'gates' [L - 1]}, 'layers': {'temperatures' [L]}}."""
        shared = super().init(key, spec)['shared']
        gates = jnp.full((spec.num_layers - 1,), FIRST_LOGIT, jnp.float32)
        layers = per_stage(
            key, spec, lambda _, stage: {'temperatures': jnp.ones((stage.num_layers,))}
        )
        return {'shared': {**shared, 'gates': gates}, 'layers': layers}

    def after(self, place: Place, site: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """Mixes the prompts out of a block, in y [B, T, D], with those into it, in x."""
        gates = place.shared['gates']
        if site != 'block' or not gates.shape[0]:
            return y
        first, number = place.prompts_at
        here = slice(first, first + number)
        own = jax.nn.sigmoid(gates[jnp.minimum(place.layer, gates.shape[0] - 1)])
        gate = jnp.where(place.layer < gates.shape[0], own, 1.0).astype(y.dtype)  # last: no gate
        return y.at[:, here].set(gate * y[:, here] + (1.0 - gate) * x[:, here])

    def attention(
        self, place: Place, q: jax.Array, k: jax.Array, v: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Divides the queries [B, H, T, D/H] by the layer's temperature."""
        temperature = _clamp(place.params['temperatures'])
        return (q / temperature).astype(q.dtype), k, v


@jax.custom_vjp
def _clamp(t: jax.Array) -> jax.Array:
    """Clamps to [COLDEST, HOTTEST]; a gradient that leads back inside passes."""
    return jnp.clip(t, COLDEST, HOTTEST)


def _clamp_forward(t):
    return _clamp(t), t


def _clamp_backward(t, g):
    # Descent moves against g: from below, a positive g leads further out.
    outwards = ((t < COLDEST) & (g > 0)) | ((t > HOTTEST) & (g < 0))
    return (jnp.where(outwards, 0.0, g),)


_clamp.defvjp(_clamp_forward, _clamp_backward)
