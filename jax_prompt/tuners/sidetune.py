"""Side-tuning: a small network on the image, blended with the frozen features.

Zhang et al., "Side-Tuning: A Baseline for Network Adaptation via Additive Side Networks",
arXiv:1912.13503: features = sigmoid(a) F(x) + (1 - sigmoid(a)) S(x), a starts at 0. As a baseline
of VPT the side network is a pretrained AlexNet; here it is four 3x3 convolutions of stride 2 with
ReLU, the mean over pixels and a dense layer to D, trained from random weights. F(x) is a constant
of the image: where it is cached, a step does not run the backbone.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jax_prompt.core.facts import Facts
from jax_prompt.core.ranges import at_least, check_values
from jax_prompt.core.spec import BackboneSpec
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.nn.convolution import convolve


@dataclass(frozen=True)
class SideTune(Tuner):
    """The side network.

    Attributes:
      width: number of channels of the first convolution; each further one has twice as many.
      depth: number of convolutions.
    """

    width: int = at_least(16, 1)
    depth: int = at_least(4, 1, 16)

    def __post_init__(self):
        check_values(self)

    def facts(self, spec: BackboneSpec) -> Facts:
        """States that the features are those of the raw image: nothing acts in the backbone."""
        return replace(super().facts(spec), needs_raw=True, bare=True)

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns the convolutions, He normal, the dense layer, N(0, 1 / width), and the gate."""
        keys = jax.random.split(key, self.depth + 1)
        shared: Tree = {'gates': jnp.zeros(())}
        inputs = 3
        for i in range(self.depth):
            outputs = self.width * 2**i
            std = (2.0 / (9 * inputs)) ** 0.5
            kernel = std * jax.random.normal(keys[i], (3, 3, inputs, outputs))
            shared[f'conv_{i:02d}'] = {'kernel': kernel, 'bias': jnp.zeros(outputs)}
            inputs = outputs
        out = jax.random.normal(keys[-1], (inputs, spec.feature_dim)) / inputs**0.5
        shared['out'] = {'kernel': out, 'bias': jnp.zeros(spec.feature_dim)}
        return {'shared': shared}

    def features(self, place: Place, features: jax.Array, raw: jax.Array | None) -> jax.Array:
        """Blends the features [B, D] with the side network's.

        Raises:
          ValueError: the caller passed no image.
        """
        if place.image is None:
            raise ValueError('side-tuning needs the image; start from it, not from features')
        x = place.image
        for i in range(self.depth):
            conv = place.shared[f'conv_{i:02d}']
            x = jax.nn.relu(convolve(x, conv['kernel'], 2) + conv['bias'])  # [B, H / 2, W / 2, 2C]
        out = place.shared['out']
        side = jnp.mean(x, axis=(1, 2)) @ out['kernel'] + out['bias']  # [B, D]
        share = jax.nn.sigmoid(place.shared['gates'])
        return share * features + (1.0 - share) * side
