"""MLP-k: a head of k layers on frozen features.

The baseline "MLP-k" of Jia et al., arXiv:2203.12119: k - 1 times (dense, ReLU, norm, dropout .1)
before the linear classifier. Their norm is a batch norm. Here it is a layer norm with as many
parameters. So no image's result depends on the other images of its batch, and a run keeps nothing
but trained parameters.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jax_prompt.core.facts import Facts
from jax_prompt.core.ranges import at_least, check_values, share
from jax_prompt.core.spec import FEATURES, BackboneSpec
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.nn.layers import dropout


@dataclass(frozen=True)
class MLPHead(Tuner):
    """Hidden layers between the features and the classifier.

    Attributes:
      layers: number of layers k, the classifier included; the papers' tables have 2, 3, 5 and 9.
      dropout_rate: share of hidden elements that is dropped in training.
      norm: norm after each hidden layer: 'layer' or 'none'.
    """

    layers: int = at_least(3, 2, 1000)
    dropout_rate: float = share(0.1)
    norm: str = 'layer'

    def __post_init__(self):
        check_values(self)
        if self.norm not in ('layer', 'none'):
            raise ValueError(f"norm is {self.norm!r}; allowed: 'layer', 'none'")

    def facts(self, spec: BackboneSpec) -> Facts:
        """States that training starts from the features."""
        return replace(super().facts(spec), cut=FEATURES)

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns k - 1 hidden layers [D, D], kernels N(0, 2 / D), float32."""
        width = spec.feature_dim
        hidden = {}
        for i, one in enumerate(jax.random.split(key, self.layers - 1)):
            kernel = jax.random.normal(one, (width, width)) * (2.0 / width) ** 0.5
            hidden[f'hidden_{i:02d}'] = {'kernel': kernel, 'bias': jnp.zeros(width)}
            if self.norm == 'layer':
                hidden[f'norm_{i:02d}'] = {'scale': jnp.ones(width), 'bias': jnp.zeros(width)}
        return {'shared': hidden}

    def features(self, place: Place, features: jax.Array, raw: jax.Array | None) -> jax.Array:
        """Maps features [B, D] through the hidden layers, [B, D]."""
        x = features
        for i in range(self.layers - 1):
            dense = place.shared[f'hidden_{i:02d}']
            x = jax.nn.relu(x @ dense['kernel'] + dense['bias'])
            if self.norm == 'layer':
                norm = place.shared[f'norm_{i:02d}']
                x = jax.nn.standardize(x, epsilon=1e-5) * norm['scale'] + norm['bias']
            if place.train and place.key is not None:
                x = dropout(jax.random.fold_in(place.key, 100 + i), x, self.dropout_rate)
        return x
