"""Adapters: a small residual MLP after the MLP of each block, or after each residual block.

The module is that of Houlsby et al., "Parameter-Efficient Transfer Learning for NLP",
arXiv:1902.00751, figure 2; its one place in a layer that of Pfeiffer et al., "AdapterFusion",
arXiv:2005.00247, as in the code of VPT (Jia et al., arXiv:2203.12119):

    h = MLP(LN(x)),    x + h + U gelu(D h + d) + u

with D [hidden, width] and U [width, hidden]. Trainable scalars: 2 * hidden * width + hidden + width
a layer; 1,189,632 on ViT-B with hidden = 64.

On a ResNet x is the map [H, W, width] that leaves a residual block, after its ReLU, and D and U act
on each of its pixels: two 1x1 convolutions. 1,949,440 on ResNet-50 with hidden = 64.

Departure: Houlsby et al. put a second adapter after the attention and start near the identity,
from a truncated normal of standard deviation 0.01. Here D is Xavier uniform and U zero: the
identity exactly, and still every parameter learns from the second step on.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jax_prompt.core.facts import Facts
from jax_prompt.core.ranges import at_least, check_values
from jax_prompt.core.spec import BackboneSpec, Cut
from jax_prompt.core.staged import per_stage
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.nn.layers import gelu

_SITES = {3: 'mlp', 4: 'block'}  # by dimensions: tokens [B, T, D], maps [B, H, W, D]


@dataclass(frozen=True)
class Adapter(Tuner):
    """One adapter a layer: on the output of the MLP's branch, or of a ResNet's block.

    Attributes:
      hidden: width of the bottleneck.
      faithful: True starts with zeros everywhere, as the released code of VPT does. Then gelu(D h +
        d) and U stay 0, and only u, an offset of the branch, ever gets a gradient.
    """

    hidden: int = at_least(64, 1)
    faithful: bool = False

    def __post_init__(self):
        check_values(self)

    def facts(self, spec: BackboneSpec) -> Facts:
        """States that training starts from what enters the first block."""
        return replace(super().facts(spec), cut=Cut(0))

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns {'layers': {'down', 'up': {'kernel' [L, inputs, outputs], 'bias' [L, outputs]}}}.

        float32. `down` is Xavier uniform with bias 0 (zero where `faithful`), `up` zero.

        Raises:
          ValueError: a backbone of tokens whose blocks have no MLP.
        """
        return {'layers': per_stage(key, spec, self._init_stage)}

    def _init_stage(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        if spec.has_tokens and 'mlp' not in spec.sites:
            raise ValueError(
                f"a {spec.family} has tokens and no site 'mlp', after which adapters stand; it has "
                f'{sorted(spec.sites)}'
            )
        width, layers = spec.width, spec.num_layers
        bound = 0.0 if self.faithful else (6.0 / (width + self.hidden)) ** 0.5
        shape = (layers, width, self.hidden)
        down = bound * jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)
        up = jnp.zeros((layers, self.hidden, width))
        return {
            'down': {'kernel': down, 'bias': jnp.zeros((layers, self.hidden))},
            'up': {'kernel': up, 'bias': jnp.zeros((layers, width))},
        }

    def after(self, place: Place, site: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns y + U gelu(D y + d) + u, in the dtype of y."""
        del x
        if site != _SITES.get(y.ndim):
            return y
        own = jax.tree.map(lambda leaf: leaf.astype(y.dtype), place.params)
        h = gelu(y @ own['down']['kernel'] + own['down']['bias'])  # [..., hidden]
        return y + h @ own['up']['kernel'] + own['up']['bias']
