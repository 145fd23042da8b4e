"""Several tuners at once: prompts and LoRA, adapters and SSF.

Each part keeps its own parameters under its name, {'shared': {name: ...}, 'layers': {name: ...}},
and sees at each hook what the part before it returned. One part at most may have prompts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax

from jax_prompt.core.spec import BackboneSpec
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Place, Tuner


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
        prompted = [name for name, tuner in self.parts if tuner.prompt_length]
        if len(prompted) > 1:
            raise ValueError(f'parts {prompted} all have prompts; one part at most may')
        widened = [name for name, tuner in self.parts if tuner.needs_tokens()]
        if len(widened) > 1:
            raise ValueError(f'parts {widened} all pool the tokens; one part at most may')
        mapping = [n for n, t in self.parts if type(t).features is not Tuner.features]
        if widened and mapping:
            raise ValueError(
                f'part {widened[0]} makes of the tokens wider features than {mapping} take; '
                'combine it with parts that act inside the backbone'
            )

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

    @property
    def _prompted(self) -> tuple[str, Tuner] | None:
        return next(((n, t) for n, t in self.parts if t.prompt_length), None)

    @property
    def prompt_length(self) -> int:
        """P of the part that has prompts."""
        return self._prompted[1].prompt_length if self._prompted else 0

    def prompt_layers(self, spec: BackboneSpec) -> range:
        """Returns the layers of the part that has prompts."""
        return self._prompted[1].prompt_layers(spec) if self._prompted else range(0)

    def calibrated(self, params: Tree, prompts: Any) -> Tree:
        """Puts the initial prompts in the part that has them."""
        if self._prompted is None:
            return super().calibrated(params, prompts)
        name, tuner = self._prompted
        own = {group: leaves[name] for group, leaves in params.items() if name in leaves}
        out = dict(params)
        for group, leaves in tuner.calibrated(own, prompts).items():
            out[group] = {**params[group], name: leaves}
        return out

    def seams(self, spec: BackboneSpec) -> tuple[int, ...]:
        return tuple(sorted({seam for _, tuner in self.parts for seam in tuner.seams(spec)}))

    def segment(self, layers: Tree, span: tuple[int, int], spec: BackboneSpec) -> Tree:
        parts = {n: t.segment(layers.get(n, {}), span, spec) for n, t in self.parts}
        return {name: leaves for name, leaves in parts.items() if leaves}

    def merged(self, backbone: Tree, params: Tree, spec: BackboneSpec) -> Tree:
        for name, tuner in self.parts:
            own = {group: leaves[name] for group, leaves in params.items() if name in leaves}
            backbone = tuner.merged(backbone, own, spec)
        return backbone

    def needs_raw(self) -> bool:
        return any(tuner.needs_raw() for _, tuner in self.parts)

    def bare(self) -> bool:
        return all(tuner.bare() for _, tuner in self.parts)

    def needs_tokens(self) -> bool:
        return any(tuner.needs_tokens() for _, tuner in self.parts)

    def feature_dim(self, spec: BackboneSpec) -> int:
        return max(tuner.feature_dim(spec) for _, tuner in self.parts)

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
            if tuner.prompt_length:
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
            if tuner.needs_tokens():
                features = tuner.pool(own, tokens, features)
        return features

    def features(self, place: Place, features: jax.Array, raw: jax.Array | None) -> jax.Array:
        for tuner, own in self._each(place):
            features = tuner.features(own, features, raw)
        return features
