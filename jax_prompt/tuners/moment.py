"""Moment probing: second-order statistics of the last tokens beside the linear head's features.

Gao et al., "Tuning Pre-trained Model via Moment Probing" (ICCV 2023), arXiv:2307.11342: a linear
classifier sees the first moment of the features (here the pooled feature) and a second one,
computed economically by heads: tokens are projected twice to m channels, split into h heads, and
each head's cross-covariance over the tokens, m / h x m / h, is kept. A linear classifier on both is
the sum of one on each. Departures: the paper shrinks the covariances by two strided convolutions,
here `m` and `h` keep them small (h (m / h)^2 numbers); they are scaled by a signed square root to
even out their range, and the moments start at weight 0 in the sum through the head's small initial
kernel only.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jax_prompt.core.facts import Facts
from jax_prompt.core.ranges import at_least, check_values
from jax_prompt.core.spec import BackboneSpec, Cut
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Place, Tuner


@dataclass(frozen=True)
class MomentProbing(Tuner):
    """Second moments of the final tokens.

    Attributes:
      width: number of channels m of each projection.
      heads: number of heads h that m is split into.
    """

    width: int = at_least(64, 1)
    heads: int = at_least(4, 1)

    def __post_init__(self):
        check_values(self)
        if self.width % self.heads:
            raise ValueError(
                f'width is {self.width} and heads {self.heads}; width must be a positive multiple '
                'of heads'
            )

    def facts(self, spec: BackboneSpec) -> Facts:
        """States the width D + h (m / h)^2, and that training starts from the last block."""
        return replace(
            super().facts(spec),
            feature_dim=spec.feature_dim + self.width**2 // self.heads,
            cut=Cut(spec.num_layers - 1),
        )

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns the two projections [D, m], N(0, 1 / D), float32."""
        keys = jax.random.split(key, 2)
        width = spec.feature_dim  # that of the final tokens
        std = width**-0.5
        return {
            'shared': {
                name: {'kernel': std * jax.random.normal(one, (width, self.width))}
                for name, one in zip(('left', 'right'), keys, strict=True)
            }
        }

    def pool(self, place: Place, tokens: jax.Array, features: jax.Array) -> jax.Array:
        """Appends the moments of tokens [B, T, D] to features [B, D]."""
        shape = (*tokens.shape[:2], self.heads, self.width // self.heads)
        sides = []
        for name in ('left', 'right'):
            x = (tokens @ place.shared[name]['kernel']).reshape(shape)  # [B, T, h, m / h]
            sides.append(x - jnp.mean(x, axis=1, keepdims=True))
        moments = jnp.einsum('bthi,bthj->bhij', *sides) / tokens.shape[1]
        moments = moments.reshape(tokens.shape[0], -1).astype(jnp.float32)  # [B, m^2 / h]
        # The derivative of a plain square root is infinite at 0.
        moments = moments * jax.lax.rsqrt(jnp.abs(moments) + 1e-2)
        return jnp.concatenate([features, moments], axis=-1)
