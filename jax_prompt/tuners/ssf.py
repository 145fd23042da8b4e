"""SSF: a learned scale and shift of each channel after every operation.

Lian et al., "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning",
arXiv:2210.08823, section 3 (scale and shift, then re-parameterisation for inference):

    y = gamma * x + beta

after the patch embedding, each LayerNorm, each projection (qkv, proj, fc1, fc2) and the final norm;
on a ResNet after each convolution and each batch norm. Trainable scalars: 2 x the outputs of these,
205,824 on ViT-B, 106,240 on ResNet-50. Every such operation is itself linear in its last step, so
gamma and beta fold into its weights for inference (`SSF.merged`).

beta is the leaf `offset`: weight decay leaves it and `scale` alone, as the released code does,
which decays no vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jax_prompt.core.ranges import check_values
from jax_prompt.core.spec import BackboneSpec, Site
from jax_prompt.core.staged import per_stage, segment
from jax_prompt.core.tree import Tree, flatten, map_layers, unflatten
from jax_prompt.core.tuner import Place, Tuner

_STD = 0.02  # of gamma around 1 and beta around 0, in the released code


@dataclass(frozen=True)
class SSF(Tuner):
    """Scales and shifts after all operations of a backbone that have weights.

    Attributes:
      identity: True starts with gamma = 1 and beta = 0, which is the frozen network. False starts
        near it, as the paper does: N(1, 0.02) and N(0, 0.02).
    """

    identity: bool = False

    def __post_init__(self):
        check_values(self)

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns {'shared', 'layers': {site: {'scale', 'offset'}}}, float32.

        Leaves are [outputs] for the sites outside the layers, [L, outputs] for those inside.
        """
        key, shared_key = jax.random.split(key)
        key, layers_key = jax.random.split(key)

        def make(key: jax.Array, stage: BackboneSpec) -> Tree:
            return self._init_sites(key, stage.sites, (stage.num_layers,))

        return {
            'shared': self._init_sites(shared_key, spec.outer, ()),
            'layers': per_stage(layers_key, spec, make),
        }

    def _init_sites(self, key: jax.Array, sites: Mapping[str, Site], lead: tuple[int, ...]) -> Tree:
        own = {name: site for name, site in sorted(sites.items()) if site.weights}
        keys = jax.random.split(key, (len(own), 2))
        return {
            name: self._init_site(pair, (*lead, site.outputs))
            for (name, site), pair in zip(own.items(), keys, strict=True)
        }

    def _init_site(self, keys: jax.Array, shape: tuple[int, ...]) -> Tree:
        std = 0.0 if self.identity else _STD
        return {
            'scale': 1.0 + std * jax.random.normal(keys[0], shape),
            'offset': std * jax.random.normal(keys[1], shape),
        }

    def after(self, place: Place, site: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns gamma * y + beta, in the dtype of y."""
        del x
        group = place.params if site in place.params else place.shared
        if site not in group:
            return y
        own = jax.tree.map(lambda leaf: leaf.astype(y.dtype), group[site])
        return y * own['scale'] + own['offset']

    def merged(self, backbone: Tree, params: Tree, spec: BackboneSpec) -> Tree:
        """Returns the backbone with gamma W and gamma b + beta for W and b (see `Tuner`).

        A convolution before a batch norm has no bias b; beta is taken off that norm's mean.

        Raises:
          ValueError: an operation without a bias or such a norm, which has no place for beta.
        """

        def change(layer: int, weights: Tree) -> Tree:
            own = segment(params['layers'], (layer, layer + 1), self.facts(spec), spec)
            own = jax.tree.map(lambda leaf: leaf[0], own)
            return _folded(weights, own, spec.sites_of(layer))

        layers = map_layers(backbone, change)
        return _folded(layers, params['shared'], spec.outer)


def _folded(weights: Tree, params: Tree, sites: Mapping[str, Site]) -> Tree:
    """Returns the weights with the scale and the shift of each of these sites folded in."""
    flat = flatten(weights)
    for name, own in params.items():
        path = sites[name].weights
        kernel = f'{path}/kernel' if f'{path}/kernel' in flat else f'{path}/scale'
        bias, mean = f'{path}/bias', _mean_after(name, sites)
        if bias in flat:
            flat[bias] = jnp.asarray(flat[bias], jnp.float32) * own['scale'] + own['offset']
        elif mean in flat:
            flat[mean] = jnp.asarray(flat[mean], jnp.float32) - own['offset']
        else:
            raise ValueError(
                f'{path} has no bias, and a shift can only be folded into one; give the tree a '
                f'zero {bias} and the backbone a config with it (ViT: qkv_bias=True)'
            )
        flat[kernel] = jnp.asarray(flat[kernel], jnp.float32) * own['scale']  # on the last axis
    return unflatten(flat)


def _mean_after(name: str, sites: Mapping[str, Site]) -> str:
    """Returns the path of the mean that a convolution's batch norm takes off; '' without one."""
    norm = sites.get(name.replace('conv', 'norm')) if 'conv' in name else None
    return f'{norm.weights}/mean' if norm else ''
