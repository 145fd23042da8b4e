"""The tuner and its hooks: what a method adds beside the frozen backbone.

A backbone calls the hooks at named places and does not know which tuner answers. A tuner overrides
the few hooks that it needs and does not know the inside of the backbone. Hooks are pure functions
of their inputs and of a `Place`, which holds this layer's slice of the tuner's parameters. A
tuner's parameters are

    {'shared': {...}, 'layers': {... leaves [L, ...]}}       (either may be missing)

so that a backbone can scan its blocks and `layers` with them. A tuner that acts in some layers only
says in which (`layer_range`). Its leaves have that length, and `Place.params` is {} in the other
layers. If a backbone has stages whose layers differ (Swin), `layers` holds a subtree for each
stage, {'stage_00': leaves [L of the stage, ...], ...}. `Tuner.per_stage` makes both forms.

Tuners are frozen dataclasses, not modules. Inside a scan all layers would share an implicit
parameter scope. The split, the optimizer and a population under `vmap` need explicit trees anyway.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jax_prompt.core.spec import BackboneSpec
from jax_prompt.core.tree import Tree


@dataclass(frozen=True)
class Place:
    """Where a hook is called.

    Attributes:
      shared: the tuner's parameters that belong to no layer.
      params: this layer's slice of the tuner's stacked parameters, without the layer axis.
      layer: index of the layer, int32 scalar (traced under scan); -1 outside the blocks.
      key: random key of this place, or None where nothing is random.
      train: whether this is a training step (dropout acts).
      probe: zero arrays of `Tuner.probes`; what a hook wants to report is their cotangent.
      image: normalised images [B, H, W, 3], before `Tuner.image`; None past the image.
      prompts_at: where prompts stand in the layer's tokens: (first, number); (0, 0): nowhere.
      prompts_end: whether they end in this layer, since the next has its own: they are keys and
        values, and what follows attention is without them.
      stage: name of the layer's stage; '' where all layers are alike.
      stage_start: index of the first layer of that stage.
    """

    shared: Tree = field(default_factory=dict)
    params: Tree = field(default_factory=dict)
    layer: Any = -1
    key: jax.Array | None = None
    train: bool = False
    probe: Tree = field(default_factory=dict)
    image: jax.Array | None = None
    prompts_at: tuple[int, int] = (0, 0)
    prompts_end: bool = False
    stage: str = ''
    stage_start: int = 0

    @classmethod
    def outside(
        cls, params: Tree, image: jax.Array | None, key: jax.Array | None, train: bool
    ) -> 'Place':
        """Returns the place outside the layers.

        Args:
          params: the tuner's parameters, and its probes as {'probe': ...} where it has any.
          image: as the attribute.
          key: as the attribute.
          train: as the attribute.
        """
        shared, probe = params.get('shared', {}), params.get('probe', {})
        return cls(shared=shared, key=key, train=train, probe=probe, image=image)

    def without_prompts(self, x: jax.Array) -> jax.Array:
        """Returns the layer's tokens [..., T, D] without the prompts."""
        first, number = self.prompts_at
        return jnp.concatenate([x[..., :first, :], x[..., first + number :, :]], axis=-2)


@dataclass(frozen=True)
class Tuner:
    """The tuner that adds nothing; the base of all others."""

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns the tuner's initial parameters, float32."""
        del key, spec
        return {}

    def per_stage(
        self, key: jax.Array, spec: BackboneSpec, make: Callable[[jax.Array, BackboneSpec], Tree]
    ) -> Tree:
        """Returns the leaves of 'layers' for each stage.

        Args:
          key: random key; where there are stages, each has its own.
          spec: the backbone.
          make: makes leaves [L, ...] from a key and a backbone whose L layers are alike: a stage,
            without the layers that `layer_range` leaves out.
        """
        runs = spec.runs(self.layer_range(spec))
        if '' in runs:
            return make(key, runs[''])
        keys = jax.random.split(key, len(runs))
        return {name: make(k, run) for k, (name, run) in zip(keys, runs.items(), strict=True)}

    def needs_raw(self) -> bool:
        """Whether `features` wants the frozen network's features of the raw image."""
        return False

    def bare(self) -> bool:
        """Whether nothing acts before `features`: tuned and raw features are then the same."""
        return False

    def needs_tokens(self) -> bool:
        """Whether `pool` wants the final tokens."""
        return False

    def feature_dim(self, spec: BackboneSpec) -> int:
        """Returns the width of what the head receives."""
        return spec.feature_dim

    def probes(self, batch_size: int) -> Tree:
        """Returns zero arrays [B, ...] that hooks find in `Place.probe` in a training step.

        Hooks return values only; what an inner solve has to say of itself leaves the step as the
        cotangent of a probe, from the forward and the backward pass alike, with no callback.
        """
        del batch_size
        return {}

    def diagnose(self, probes: Tree, weights: jax.Array) -> dict[str, jax.Array]:
        """Turns the probes' cotangents into a step's metrics, float32 scalars by name.

        A name that ends in `_worst` is kept at its maximum over an epoch, others are averaged; one
        that ends in `_converged` is a share and is watched.

        Args:
          probes: cotangents of `probes`.
          weights: [B], 1 for a real example, 0 for padding.
        """
        del probes, weights
        return {}

    def layer_range(self, spec: BackboneSpec) -> range:
        """Returns the consecutive layers that have parameters, the first axis of 'layers'."""
        return range(spec.num_layers)

    def seams(self, spec: BackboneSpec) -> tuple[int, ...]:
        """Returns the layers at which the parameters of layers begin and end."""
        layers = self.layer_range(spec)
        return (layers.start, layers.stop)

    def segment(self, layers: Tree, span: tuple[int, int], spec: BackboneSpec) -> Tree:
        """Returns the parameters of some consecutive layers; {} where these have none.

        Args:
          layers: the parameters under 'layers', leaves [len(layer_range), ...], or these by stage.
          span: (start, stop) of the layers, between two `seams`, all of one stage.
          spec: the backbone.

        Returns:
          Leaves [stop - start, ...].
        """
        own, (start, stop) = self.layer_range(spec), span
        if stop <= own.start or start >= own.stop:
            return {}
        first = own.start
        if spec.stages and layers:
            name, stage_start = spec.stage_of(start)
            layers, first = layers.get(name, {}), max(first, stage_start)
        if start < own.start or stop > own.stop:
            raise ValueError(
                f'layers {own} have parameters, which layers {start} to {stop - 1} cross; '
                f'both ends must be seams: build the backbone with seams={self.seams(spec)}'
            )
        return jax.tree.map(lambda leaf: leaf[start - first : stop - first], layers)

    def merged(self, backbone: Tree, params: Tree, spec: BackboneSpec) -> Tree:
        """Folds the tuner into the backbone's weights: the same features without the tuner.

        Args:
          backbone: the backbone's parameters, layers stacked or not.
          params: the tuner's parameters.
          spec: the backbone.

        Returns:
          The backbone's parameters in the same form; those changed are float32.

        Raises:
          ValueError: what this tuner adds is no change of weights.
        """
        del params, spec
        if type(self) is Tuner:  # adds nothing
            return backbone
        raise ValueError(
            f"{type(self).__name__} can't be merged into the backbone's weights; allowed: methods "
            "'lora' and 'ssf'. Keep the tuner for inference"
        )

    @classmethod
    def merges(cls) -> bool:
        """Whether what this tuner adds is a change of weights, which `merged` folds into them."""
        return cls is Tuner or cls.merged is not Tuner.merged

    def prompt_layers(self, spec: BackboneSpec) -> range:
        """Returns the consecutive layers at which `prompts` is asked.

        Prompts enter at the first, are replaced at each further one, and stay after the last.
        """
        del spec
        return range(0)

    @property
    def mixes_images(self) -> bool:
        """Whether prompts in windows take part in those of other images (VPT's released code)."""
        return False

    def calibrated(self, params: Tree, prompts: Any) -> Tree:
        """Returns the parameters with these initial prompts [prompt layers, P, D] in place.

        D is that of the widest stage; of a narrower one's prompts the first channels count.
        """
        raise NotImplementedError(f'{type(self).__name__} has no prompts to calibrate')

    @property
    def prompt_length(self) -> int:
        """P, the prompts that `prompts` returns."""
        return 0

    def image(self, place: Place, image: jax.Array) -> jax.Array:
        """Maps the image [B, H, W, 3] before the patch embedding or the stem."""
        del place
        return image

    def prompts(self, place: Place, tokens: jax.Array) -> jax.Array:
        """Returns the prompts [B or 1, P, D] of a layer that `prompt_layers` names.

        Args:
          place: the layer.
          tokens: the block's input without prompts, [B, C + N, D] (C class and register tokens).
        """
        raise NotImplementedError(f'{type(self).__name__} names prompt layers but makes no prompts')

    def after(self, place: Place, site: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """Maps the output y [..., outputs] of the operation `site` on x [..., inputs].

        Sites are those of `spec.sites`, and 'block', a whole layer from x to y [B, T, D], in each
        layer; those of `spec.outer` once, with the layer -1. After attention only those tokens are
        there that something later depends on (`Place.prompts_end`, and in a last layer the class
        token alone where nothing else is pooled).
        """
        del place, site, x
        return y

    def attention(
        self, place: Place, q: jax.Array, k: jax.Array, v: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Maps queries, keys and values [B, H, T, D/H] before the attention product."""
        del place
        return q, k, v

    def key_bias(self, place: Place, num_keys: int) -> jax.Array | None:
        """Returns what is added to the scores of each key, [num_keys] float32, or None.

        -inf leaves a key out. No gradient passes. Asked by backbones whose attention is among all
        tokens; in windows it is not.
        """
        del place, num_keys
        return None

    def unmasked(self) -> str:
        """Returns why prompts past a length can't be left out exactly; '' where they can.

        They can where `key_bias` leaves out the prompts past `place.shared['length']`, and nothing
        else of the method sees how many prompts there are.
        """
        return f'{type(self).__name__} does not mask prompts'

    def pool(self, place: Place, tokens: jax.Array, features: jax.Array) -> jax.Array:
        """Maps the pooled features [B, D], with the normalised final tokens at hand.

        Called only if `needs_tokens`.

        Args:
          place: the place, without a layer.
          tokens: [B, C + P + N, D] float32.
          features: [B, D] float32.
        """
        del place, tokens
        return features

    def features(self, place: Place, features: jax.Array, raw: jax.Array | None) -> jax.Array:
        """Maps the pooled features [B, D] before the head.

        Args:
          place: the place, without a layer.
          features: features of the tuned network, [B, D].
          raw: features of the frozen network on the raw image, [B, D], if `needs_raw`, else None.
        """
        del place, raw
        return features
