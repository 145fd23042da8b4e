"""Facts: what a tuner states of itself, once it knows the backbone.

Model, engine and search read facts and ask the tuner nothing else about its form. Facts of several
tuners that act together are merged in one place, `Facts.together`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jax_prompt.core.spec import IMAGE, Cut


@dataclass(frozen=True)
class Facts:
    """The facts of a tuner on a backbone of L layers.

    Attributes:
      feature_dim: width of what the head receives.
      layers: the consecutive layers that have parameters, the first axis of 'layers'.
      cut: where training starts. No parameter that trains acts before this place.
      prompt_layers: the consecutive layers at which `Tuner.prompts` is asked. Prompts enter at the
        first, are replaced at each further one, and stay after the last.
      prompt_length: P, the number of prompts that `Tuner.prompts` returns.
      needs_raw: whether `Tuner.features` wants the frozen network's features of the raw image.
      needs_tokens: whether `Tuner.pool` is asked, with the final tokens.
      bare: whether nothing acts before `Tuner.features`. Tuned and raw features are then the same.
      constant: whether features depend on the image alone while the tuner's parameters stay as they
        are: nothing of it is random, and it sees one image at a time.
      mixes_images: whether prompts in windows take part in those of other images, as in VPT's
        released code.
      mask_obstacle: why prompts past a length can't be left out exactly; '' where they can. They
        can where `Tuner.key_bias` leaves out the prompts past `place.shared['length']`, and nothing
        else of the method sees how many prompts there are.
      parts: (name, facts) of each tuner where several act; each has parameters under its name.
    """

    feature_dim: int
    layers: range
    cut: Cut = IMAGE
    prompt_layers: range = range(0)
    prompt_length: int = 0
    needs_raw: bool = False
    needs_tokens: bool = False
    bare: bool = False
    constant: bool = False
    mixes_images: bool = False
    mask_obstacle: str = ''
    parts: tuple[tuple[str, 'Facts'], ...] = ()

    @classmethod
    def together(cls, parts: Sequence[tuple[str, 'Facts']], mask_obstacle: str) -> 'Facts':
        """Merges the facts of tuners that act one after the other; one at most has prompts.

        Args:
          parts: (name, facts) of each.
          mask_obstacle: as the attribute.
        """
        each = [facts for _, facts in parts]
        prompted = next((facts for facts in each if facts.prompt_length), each[0])
        return cls(
            feature_dim=max(facts.feature_dim for facts in each),
            layers=range(min(f.layers.start for f in each), max(f.layers.stop for f in each)),
            cut=min(facts.cut for facts in each),
            prompt_layers=prompted.prompt_layers,
            prompt_length=prompted.prompt_length,
            needs_raw=any(facts.needs_raw for facts in each),
            needs_tokens=any(facts.needs_tokens for facts in each),
            bare=all(facts.bare for facts in each),
            mixes_images=any(facts.mixes_images for facts in each),
            mask_obstacle=mask_obstacle,
            parts=tuple(parts),
        )

    @property
    def seams(self) -> tuple[int, ...]:
        """Layers at which the stacked layers have to be parted, besides 0 and L.

        They are the ends of the layers with parameters, the ends of those with prompts of their
        own, and the cut. Some may lie outside the layers and part nothing.
        """
        asked = self.prompt_layers
        ends = {asked.start, asked.stop} if len(asked) > 1 else set(asked)
        return tuple(sorted({*ends, *self.edges, self.cut.block}))

    @property
    def edges(self) -> set[int]:
        """Layers at which the parameters of layers begin and end, of each part."""
        if self.parts:
            return set().union(*(facts.edges for _, facts in self.parts))
        return {self.layers.start, self.layers.stop}
