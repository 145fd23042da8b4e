"""Several tuners at once: prompts and LoRA, adapters and SSF.

Each part keeps its own parameters under its name, {'shared': {name: ...}, 'layers': {name: ...}},
and sees at each hook what the part before it returned. One part at most may have prompts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax

from jax_prompt.core.facts import Facts
from jax_prompt.core.spec import BackboneSpec
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Place, Tuner, overrides


@dataclass(frozen=True)
class Compose(Tuner):
    """Tuners that act one after the other.

    Attributes:
      parts: (name, tuner) pairs, in order.
    """

    parts: tuple[tuple[str, Tuner], ...] = ()

    def __post_init__(self):
        names = [name for name, _ in self.parts]
        if len(set(names)) != len(names):
            raise ValueError(f'parts {names} repeat a name; each part needs its own')
        prompted = [name for name, tuner in self.parts if answers(tuner, 'prompts')]
        if len(prompted) > 1:
            raise ValueError(f'parts {prompted} all have prompts; one part at most may')
        widened = [name for name, tuner in self.parts if answers(tuner, 'pool')]
        if len(widened) > 1:
            raise ValueError(f'parts {widened} all pool the tokens; one part at most may')
        mapping = [name for name, tuner in self.parts if answers(tuner, 'features')]
        if widened and mapping:
            raise ValueError(
                f'part {widened[0]} makes of the tokens wider features than {mapping} take; '
                'combine it with parts that act inside the backbone'
            )

    def facts(self, spec: BackboneSpec) -> Facts:
        """Merges the parts' facts.

        Raises:
          ValueError: a part trains the backbone, and another wants features of the frozen one.
        """
        parts = [(name, tuner.facts(spec)) for name, tuner in self.parts]
        training = [name for name, tuner in self.parts if answers(tuner, 'trains')]
        raw = [name for name, facts in parts if facts.needs_raw]
        if training and raw:
            raise ValueError(
                f'part {training[0]} trains the backbone, and part {raw[0]} needs the features of '
                'the frozen one; combine it with parts that leave the backbone alone'
            )
        return Facts.together(parts, super().facts(spec).mask_obstacle)

    def trains(self, path: str, spec: BackboneSpec) -> bool:
        return any(tuner.trains(path, spec) for _, tuner in self.parts)

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns {'shared': {name: ...}, 'layers': {name: ...}}."""
        made: Tree = {}
        for i, (name, tuner) in enumerate(self.parts):
            for group, leaves in tuner.init(jax.random.fold_in(key, i), spec).items():
                made.setdefault(group, {})[name] = leaves
        return made

    def _each(self, place: Place) -> Iterator[tuple[Tuner, Place]]:
        for i, (name, tuner) in enumerate(self.parts):
            key = None if place.key is None else jax.random.fold_in(place.key, 1000 + i)
            own = replace(
                place,
                shared=place.shared.get(name, {}),
                params=place.params.get(name, {}),
                probe=place.probe.get(name, {}),
                key=key,
            )
            yield tuner, own

    def calibrated(self, params: Tree, prompts: Any) -> Tree:
        """Puts the initial prompts in the part that has them."""
        prompted = [(name, tuner) for name, tuner in self.parts if answers(tuner, 'prompts')]
        if not prompted:
            return super().calibrated(params, prompts)
        name, tuner = prompted[0]
        own = {group: leaves[name] for group, leaves in params.items() if name in leaves}
        out = dict(params)
        for group, leaves in tuner.calibrated(own, prompts).items():
            out[group] = {**params[group], name: leaves}
        return out

    def merged(self, backbone: Tree, params: Tree, spec: BackboneSpec) -> Tree:
        for name, tuner in self.parts:
            own = {group: leaves[name] for group, leaves in params.items() if name in leaves}
            backbone = tuner.merged(backbone, own, spec)
        return backbone

    def probes(self, batch_size: int) -> Tree:
        made = {name: tuner.probes(batch_size) for name, tuner in self.parts}
        return {name: probes for name, probes in made.items() if probes}

    def diagnose(self, probes: Tree, weights: jax.Array) -> dict[str, jax.Array]:
        out: dict[str, jax.Array] = {}
        for name, tuner in self.parts:
            if name in probes:
                out |= tuner.diagnose(probes[name], weights)
        return out

    def image(self, place: Place, image: jax.Array) -> jax.Array:
        for tuner, own in self._each(place):
            image = tuner.image(own, image)
        return image

    def prompts(self, place: Place, tokens: jax.Array) -> jax.Array:
        for tuner, own in self._each(place):
            if answers(tuner, 'prompts'):
                return tuner.prompts(own, tokens)
        return super().prompts(place, tokens)

    def after(self, place: Place, site: str, x: jax.Array, y: jax.Array) -> jax.Array:
        for tuner, own in self._each(place):
            y = tuner.after(own, site, x, y)
        return y

    def attention(
        self, place: Place, q: jax.Array, k: jax.Array, v: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        for tuner, own in self._each(place):
            q, k, v = tuner.attention(own, q, k, v)
        return q, k, v

    def key_bias(self, place: Place, num_keys: int) -> jax.Array | None:
        """Returns the sum of the parts' biases; None where no part has one."""
        made = [tuner.key_bias(own, num_keys) for tuner, own in self._each(place)]
        biases = [bias for bias in made if bias is not None]
        return sum(biases[1:], biases[0]) if biases else None

    def pool(self, place: Place, tokens: jax.Array, features: jax.Array) -> jax.Array:
        for tuner, own in self._each(place):
            if answers(tuner, 'pool'):
                features = tuner.pool(own, tokens, features)
        return features

    def features(self, place: Place, features: jax.Array, raw: jax.Array | None) -> jax.Array:
        for tuner, own in self._each(place):
            features = tuner.features(own, features, raw)
        return features


def answers(tuner: Tuner, member: str) -> bool:
    """Whether a tuner, or a part of it, has a member of its own, a hook for example."""
    if isinstance(tuner, Compose):
        return any(answers(part, member) for _, part in tuner.parts)
    return overrides(type(tuner), member)
