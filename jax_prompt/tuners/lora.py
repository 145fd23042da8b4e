"""LoRA: a low-rank update of frozen projections.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, eq. 3:

    h = W x + s B A x        A [r, inputs], B [outputs, r], s = alpha / r

A is drawn at random and B is zero, so that training starts from the frozen network. The defaults
are those of NOAH (Zhang et al., "Neural Prompt Search", arXiv:2206.04673): the joint projection of
queries, keys and values, r = 8, s = 1. Trainable scalars: r (inputs + outputs) a layer and part,
294,912 on ViT-B with the defaults. Afterwards W + s B A takes the place of W (`LoRA.merged`).

Matrices stand here as the backbone's kernels do: `down` [inputs, r] is A and `up` [r, outputs] B,
transposed.

A convolution is updated by two: A [k, k, inputs, r] of the same kernel size, stride and padding,
and B, a product of r channels; so W + s B A is again a kernel [k, k, inputs, outputs]. Trainable
scalars: r (k^2 inputs + outputs) a convolution; on ResNet-50 with the default, the 3x3 convolution
of each block, 302,080.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jax_prompt.core.facts import Facts
from jax_prompt.core.ranges import at_least, check_values, positive, share
from jax_prompt.core.spec import BackboneSpec, Cut
from jax_prompt.core.staged import per_stage, segment
from jax_prompt.core.tree import Tree, flatten, map_layers, unflatten
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.nn.convolution import convolve_like
from jax_prompt.nn.layers import dropout

THIRDS = ('q', 'k', 'v')  # in the order of the joint projection's outputs
CONVS = ('conv1', 'conv2', 'conv3', 'down_conv')
PARTS = ('qkv', *THIRDS, 'proj', 'fc1', 'fc2', *CONVS)
_GROUPS = {'mlp': ('fc1', 'fc2'), 'conv': CONVS}
_SITES = ('qkv', 'proj', 'fc1', 'fc2', *CONVS)  # a site's place numbers its random stream
_FIRST_STREAM = 2  # 0 and 1 are the prompts' and the block's


@dataclass(frozen=True)
class LoRA(Tuner):
    """Low-rank updates of named projections, in the layers from `first_layer` on.

    Attributes:
      rank: rank r of the update.
      scale: factor s of the update (alpha / r of eq. 3).
      parts: what is updated, names joined by commas: 'qkv' (one A for all three), 'q', 'k', 'v'
        (an A for each), 'proj', 'fc1', 'fc2', or 'mlp' for the last two. On a ResNet: 'conv1',
        'conv2', 'conv3', 'down_conv' (in the shortcut), or 'conv' for all of them. 'auto' is 'qkv'
        on a transformer and 'conv2' on a ResNet, which is 3x3 in every block.
      first_layer: first layer that is updated; training starts from the tokens that enter it.
      dropout_rate: share of the elements of x that is dropped before A in training (NOAH: 0).
    """

    rank: int = at_least(8, 1)
    scale: float = positive(1.0)
    parts: str = 'auto'
    first_layer: int = at_least(0)
    dropout_rate: float = share(0.0)

    def __post_init__(self):
        check_values(self)
        if self.parts == 'auto':
            return
        names = [name for word in self._words('') for name in _GROUPS.get(word, (word,))]
        if any(name not in PARTS for name in names) or not isinstance(self.parts, str):
            raise ValueError(
                f'parts is {self.parts!r}; allowed: {", ".join(PARTS)}, mlp, conv, '
                "one or more joined by commas, as in 'q,v', or auto"
            )
        if len(set(names)) < len(names) or ('qkv' in names and set(THIRDS) & set(names)):
            raise ValueError(
                f"parts is {self.parts!r}, which names a projection twice; 'qkv' is q, k and v at "
                "once, 'mlp' is fc1 and fc2, 'conv' all convolutions. Name each once"
            )

    def _words(self, default: str) -> list[str]:
        parts = default if self.parts == 'auto' else str(self.parts)
        return [word.strip() for word in parts.split(',')]

    def names(self, spec: BackboneSpec) -> tuple[str, ...]:
        """Returns the parts, groups written out: what some layer of this backbone has of them.

        Raises:
          ValueError: a part that no layer has.
        """
        known = {site for run in spec.runs().values() for site in run.sites}
        names: list[str] = []
        for word in self._words(spec.projection):
            group = _GROUPS.get(word, (word,))
            own = [name for name in group if _site_of(name) in known]
            if not own:
                raise ValueError(
                    f'a {spec.family} has no projection {_site_of(group[0])!r}; it has '
                    f'{[site for site in _SITES if site in known]}: change parts'
                )
            names += own
        return tuple(names)

    def facts(self, spec: BackboneSpec) -> Facts:
        """States the layers that are updated, before which training needs nothing.

        Raises:
          ValueError: `first_layer` lies past the last layer.
        """
        if self.first_layer >= spec.num_layers:
            raise ValueError(
                f'first_layer is {self.first_layer}; this backbone has {spec.num_layers} layers: '
                f'allowed: 0 to {spec.num_layers - 1}'
            )
        layers = range(self.first_layer, spec.num_layers)
        return replace(super().facts(spec), layers=layers, cut=Cut(self.first_layer))

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns {'layers': {part: {'down' [l, inputs, r], 'up' [l, r, outputs]}}}, float32.

        l counts the layers that are updated; of a convolution `down` is [l, k, k, inputs, r]. It is
        uniform in +-1 / sqrt(k^2 inputs), which is Kaiming's bound with a = sqrt(5), and `up` zero,
        as in the code of LoRA and of NOAH. Stages without a part have no leaves for it.

        Raises:
          ValueError: a backbone without one of the projections.
        """
        names = self.names(spec)

        def make(key: jax.Array, stage: BackboneSpec) -> Tree:
            keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
            own = [name for name in names if _site_of(name) in stage.sites]
            return {name: self._init_part(keys[name], name, stage) for name in own}

        return {'layers': per_stage(key, spec, make, self.facts(spec).layers)}

    def _init_part(self, key: jax.Array, name: str, spec: BackboneSpec) -> Tree:
        site, count = spec.sites[_site_of(name)], spec.num_layers
        outputs = site.outputs // (3 if name in THIRDS else 1)
        area = (site.kernel, site.kernel) if name in CONVS else ()
        shape = (count, *area, site.inputs, self.rank)
        bound = 1.0 / math.sqrt(math.prod(area) * site.inputs)
        return {
            'down': jax.random.uniform(key, shape, jnp.float32, -bound, bound),
            'up': jnp.zeros((count, self.rank, outputs)),
        }

    def after(self, place: Place, site: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns y + s B A x (eq. 3), in the dtype of y."""
        if site not in _SITES:
            return y
        x = x.astype(y.dtype)
        if place.train and self.dropout_rate and place.key is not None:
            key = jax.random.fold_in(place.key, _FIRST_STREAM + _SITES.index(site))
            x = dropout(key, x, self.dropout_rate)

        def product(part: Tree) -> jax.Array:
            down, up = part['down'].astype(y.dtype), part['up'].astype(y.dtype)
            return (convolve_like(x, down, y) if site in CONVS else x @ down) @ up

        update = _joined(site, place.params, product)  # [..., outputs]
        return y if update is None else y + self.scale * update

    def merged(self, backbone: Tree, params: Tree, spec: BackboneSpec) -> Tree:
        """Returns the backbone with W + s B A in the place of each W, float32 (see `Tuner`)."""
        layers, facts = params['layers'], self.facts(spec)

        def product(part: Tree) -> jax.Array:
            return jnp.matmul(part['down'], part['up'], precision='highest')

        def change(layer: int, weights: Tree) -> Tree:
            if layer not in facts.layers:
                return weights
            own = segment(layers, (layer, layer + 1), facts, spec)
            own = jax.tree.map(lambda leaf: leaf[0], own)
            flat, sites = flatten(weights), spec.sites_of(layer)
            for site in _SITES:
                update = _joined(site, own, product)  # [inputs, outputs], k x k before
                if update is not None:
                    path = f'{sites[site].weights}/kernel'
                    flat[path] = jnp.asarray(flat[path], jnp.float32) + self.scale * update
            return unflatten(flat)

        return map_layers(backbone, change)


def _site_of(name: str) -> str:
    return 'qkv' if name in THIRDS else name


def _joined(site: str, params: Tree, product: Callable[[Tree], jax.Array]) -> jax.Array | None:
    """Returns the products of a site's parts side by side, [..., outputs]; None without any."""
    if site in params:
        return product(params[site])
    if site != 'qkv' or not any(name in params for name in THIRDS):
        return None
    thirds = {name: product(params[name]) for name in THIRDS if name in params}
    nothing = jnp.zeros_like(next(iter(thirds.values())))
    return jnp.concatenate([thirds.get(name, nothing) for name in THIRDS], axis=-1)  # q | k | v
