"""Bias: the biases of the backbone train (BitFit).

Ben Zaken et al., "BitFit", arXiv:2106.10199. Every bias that is added to a layer's output: on a
ResNet, whose convolutions have none, those of the norms (26,560 on ResNet-50).
"""

from dataclasses import dataclass

import jax

from jax_prompt.core.ranges import check_values
from jax_prompt.core.spec import BackboneSpec
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Tuner


@dataclass(frozen=True)
class Biases(Tuner):
    """Adds nothing; knows which leaves are biases.

    Attributes:
      faithful: True does what the released code of VPT does. On a Swin it also trains the tables
        of relative position biases. It runs a ResNet without gradients, so nothing trains there.
    """

    faithful: bool = False

    def __post_init__(self):
        check_values(self)

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns nothing.

        Raises:
          ValueError: `faithful` on a backbone where nothing differs.
        """
        if self.faithful and spec.has_tokens and not spec.windowed:
            raise ValueError(
                'faithful is True; the released code departs from this on a Swin and on a ResNet, '
                f'and this is a {spec.family}: allowed: False'
            )
        return super().init(key, spec)

    def trains(self, path: str, spec: BackboneSpec) -> bool:
        """Whether the leaf at this path of the backbone's tree trains."""
        name = path.rsplit('/', 1)[-1]
        if not self.faithful:
            return name == 'bias'
        return spec.windowed and name in ('bias', 'relative_bias')
