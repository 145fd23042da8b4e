"""SNF: a normalising flow on each residual shortcut.

Wang et al., "Adapting Shortcut with Normalizing Flow: An Efficient Tuning Framework for Visual
Recognition" (CVPR 2023): a block's x + f(x) becomes g(x) + f(x), at both of its shortcuts, where g
is an invertible map on the channels that starts as the identity. A residual block of a ResNet has
one shortcut, whose map it acts on pixel by pixel, behind the convolution and norm of a
downsampling one. Kinds, after Rezende and Mohamed,
arXiv:1505.05770, section 4:

- 'affine': g(x) = a x + b, elementwise;
- 'planar': g(x) = x + u tanh(w . x + c), with u replaced by the u' for which w . u' >= -1, the
  condition of invertibility. Its softplus is shifted so that u = 0 is the identity.

The paper names neither the number of flows nor their start; `flows` is 1.
"""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jax_prompt.core.facts import Facts
from jax_prompt.core.ranges import at_least, check_values
from jax_prompt.core.spec import BackboneSpec, Cut
from jax_prompt.core.staged import per_stage
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Place, Tuner

KINDS = ('affine', 'planar')
SITES = ('shortcut1', 'shortcut2', 'shortcut')  # a transformer's, a ResNet's
_SHIFT = math.log(math.e - 1.0)  # softplus of it is 1


@dataclass(frozen=True)
class SNF(Tuner):
    """The flows of all shortcuts.

    Attributes:
      kind: kind of the maps: 'affine' or 'planar'.
      flows: number of maps at each shortcut, one after the other.
    """

    kind: str = 'affine'
    flows: int = at_least(1, 1, 1000)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; allowed: 'affine', 'planar'")
        check_values(self)

    def facts(self, spec: BackboneSpec) -> Facts:
        """States that training starts from what enters the first block."""
        return replace(super().facts(spec), cut=Cut(0))

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns the flows as identities, leaves [L, flows, ...], float32.

        Raises:
          ValueError: a backbone without shortcuts.
        """
        if not any(site in spec.sites for site in SITES):
            raise ValueError(f'a {spec.family} has no sites {SITES}, which SNF acts on')
        return {'layers': per_stage(key, spec, self._init_stage)}

    def _init_stage(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        shape = (spec.num_layers, self.flows, spec.width)
        sites = [site for site in SITES if site in spec.sites]
        if self.kind == 'affine':
            made = {site: {'scale': jnp.ones(shape), 'offset': jnp.zeros(shape)} for site in sites}
            return made
        keys = dict(zip(sites, jax.random.split(key, len(sites)), strict=True))
        return {
            site: {
                'direction': jax.random.normal(keys[site], shape) / spec.width**0.5,
                'offset': jnp.zeros(shape),
                'bias': jnp.zeros(shape[:2]),
            }
            for site in sites
        }

    def after(self, place: Place, site: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """Maps the shortcut's tokens or pixels y [..., D]; other sites as they are."""
        if site not in SITES:
            return y
        params = place.params[site]
        for i in range(self.flows):
            one = {name: leaf[i] for name, leaf in params.items()}
            y = _affine(one, y) if self.kind == 'affine' else _planar(one, y)
        return y


def _affine(params: Tree, x: jax.Array) -> jax.Array:
    return (x * params['scale'] + params['offset']).astype(x.dtype)


def _planar(params: Tree, x: jax.Array) -> jax.Array:
    w, u = params['direction'], params['offset']
    product = jnp.dot(w, u)
    allowed = jax.nn.softplus(product + _SHIFT) - 1.0  # above -1, and 0 at 0
    u = u + (allowed - product) * w / (jnp.dot(w, w) + 1e-12)
    gate = jnp.tanh(x @ w + params['bias'])[..., None]  # [..., 1]
    return (x + gate * u).astype(x.dtype)
