"""A tuner's parameters of layers: made stage by stage, and taken apart for a segment.

If all layers are alike, 'layers' holds leaves [L, ...]. If a backbone has stages (Swin, ResNet), it
holds such leaves for each stage, {'stage_00': leaves [L of the stage, ...], ...}.
"""

from collections.abc import Callable

import jax

from jax_prompt.core.facts import Facts
from jax_prompt.core.spec import BackboneSpec
from jax_prompt.core.tree import Tree


def per_stage(
    key: jax.Array,
    spec: BackboneSpec,
    make: Callable[[jax.Array, BackboneSpec], Tree],
    layers: range | None = None,
) -> Tree:
    """Returns the leaves of 'layers' for each stage.

    Args:
      key: random key; where there are stages, each has its own.
      spec: the backbone.
      make: makes leaves [L, ...] from a key and a backbone whose L layers are alike: a stage,
        without the layers that have no parameters.
      layers: the consecutive layers that have parameters (`Facts.layers`); None: all.
    """
    runs = spec.runs(layers)
    if '' in runs:
        return make(key, runs[''])
    keys = jax.random.split(key, len(runs))
    return {name: make(k, run) for k, (name, run) in zip(keys, runs.items(), strict=True)}


def segment(layers: Tree, span: tuple[int, int], facts: Facts, spec: BackboneSpec) -> Tree:
    """Returns the parameters of some consecutive layers; {} where these have none.

    Args:
      layers: the parameters under 'layers', leaves [len(facts.layers), ...], or these by stage. A
        stage without any leaf may be missing.
      span: (start, stop) of the layers, between two `facts.seams`, all of one stage.
      facts: of the tuner that has the parameters.
      spec: the backbone.

    Returns:
      Leaves [stop - start, ...].

    Raises:
      ValueError: an end of the layers within the span, or parameters that are not by stage.
    """
    if facts.parts:
        made = {n: segment(layers.get(n, {}), span, part, spec) for n, part in facts.parts}
        return {name: leaves for name, leaves in made.items() if leaves}
    own, (start, stop) = facts.layers, span
    if not layers or stop <= own.start or start >= own.stop:
        return {}
    if start < own.start or stop > own.stop:
        raise ValueError(
            f'layers {own} have parameters, which layers {start} to {stop - 1} cross; '
            f'both ends must be seams: build the backbone with seams={(own.start, own.stop)}'
        )
    first = own.start
    if spec.stages:
        unknown = layers.keys() - spec.runs().keys()
        if unknown:
            raise ValueError(
                f"the tuner's parameters of layers are {sorted(unknown)}; the layers of a "
                f'{spec.family} differ by stage, so that each stage needs its own: make them with '
                '`core.staged.per_stage`'
            )
        name, stage_start = spec.stage_of(start)
        layers, first = layers.get(name, {}), max(first, stage_start)
    return jax.tree.map(lambda leaf: leaf[start - first : stop - first], layers)
