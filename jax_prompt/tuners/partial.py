"""Partial-k: the last k blocks train, and all that lies between them and the final norm.

Yosinski et al., "How transferable are features in deep neural networks?", arXiv:1411.1792, as a
baseline of Jia et al., arXiv:2203.12119 (k = 1 there). Training starts from the tokens that enter
block L - k. They are cached if no augmentation is random. On a ResNet blocks are residual blocks,
with no norm behind them. Their batch norms keep their statistics. (The code of Jia et al. counts
whole stages there: its k = 1 is `last` = 3 on a ResNet-50.)
"""

from dataclasses import dataclass, replace

from jax_prompt.core.facts import Facts
from jax_prompt.core.ranges import at_least, check_values
from jax_prompt.core.spec import BackboneSpec, Cut
from jax_prompt.core.tree import segment_span
from jax_prompt.core.tuner import Tuner


@dataclass(frozen=True)
class Partial(Tuner):
    """Adds nothing; knows which blocks train.

    Attributes:
      last: number of blocks k that train, counted from the end.
    """

    last: int = at_least(1, 1)

    def __post_init__(self):
        check_values(self)

    def first_block(self, spec: BackboneSpec) -> int:
        """Returns the first block that trains.

        Raises:
          ValueError: more blocks than the backbone has.
        """
        if self.last > spec.num_layers:
            raise ValueError(
                f'last is {self.last}; this backbone has {spec.num_layers} blocks. To train all of '
                'it take method=full'
            )
        return spec.num_layers - self.last

    def facts(self, spec: BackboneSpec) -> Facts:
        """States that training starts from what enters the first block that trains."""
        return replace(super().facts(spec), cut=Cut(self.first_block(spec)))

    def trains(self, path: str, spec: BackboneSpec) -> bool:
        """Whether the leaf at this path of the backbone's tree trains."""
        group = path.split('/')[0]
        span = segment_span(group)
        first = self.first_block(spec)
        return spec.trained_from(group, first) if span is None else span[0] >= first
