"""The tuner and its hooks: what a method adds beside the frozen backbone.

A backbone calls a tuner's hooks at named places and does not know which tuner answers. A tuner
overrides the few hooks that it needs and does not know the inside of the backbone. It says:

- `init`: its parameters;
- the hooks: what it does with what the backbone hands it;
- `trains`: which of the backbone's own leaves train (none, unless it says so);
- `facts`: what model and engine have to know before anything runs (`core.facts`).

As an example, take a tuner with two prompts at the first block and an offset behind each MLP:

>>> from dataclasses import replace
>>> import jax.numpy as jnp
>>> from jax_prompt.backbones.architectures import ARCHITECTURES
>>> from jax_prompt.core.spec import Cut
>>> from jax_prompt.core.staged import per_stage
>>> from jax_prompt.core.tree import flatten
>>> @dataclass(frozen=True)
... class Offsets(Tuner):
...     def facts(self, spec):
...         own = super().facts(spec)
...         return replace(own, cut=Cut(0), prompt_layers=range(1), prompt_length=2)
...
...     def init(self, key, spec):
...         offsets = lambda key, stage: {'offset': jnp.zeros((stage.num_layers, stage.width))}
...         prompts = jnp.zeros((2, spec.width))
...         return {'shared': {'prompts': prompts}, 'layers': per_stage(key, spec, offsets)}
...
...     def prompts(self, place, tokens):
...         return place.shared['prompts'][None]
...
...     def after(self, place, site, x, y):
...         return y + place.params['offset'] if site == 'mlp' else y

Its parameters are an explicit tree. What belongs to no layer is 'shared'. What belongs to layers is
stacked along a leading layer axis, so that a backbone can scan its blocks and 'layers' with them:

>>> def show(arch):
...     tree = Offsets().init(jax.random.key(0), ARCHITECTURES[arch].spec())
...     for path, leaf in flatten(tree).items():
...         print(path, leaf.shape)
>>> show('vit_b16_224')
layers/offset (12, 768)
shared/prompts (2, 768)

A Swin has stages, whose layers differ in width. Its 'layers' hold a subtree for each:

>>> show('swin_b_224')
layers/stage_00/offset (2, 128)
layers/stage_01/offset (2, 256)
layers/stage_02/offset (18, 512)
layers/stage_03/offset (2, 1024)
shared/prompts (2, 128)

A hook receives a `Place`, with this layer's slice (`place.params['offset']` is [768] on the ViT),
and the backbone's values. With P prompts, H heads, D the stage's width, on images of 224 pixels:

| hook | ViT-B: T = 1 + P + 196 | Swin-B, first stage: T = P + 3136 | ResNet-50, first stage |
|---|---|---|---|
| `image` | [B, 224, 224, 3] | the same | the same |
| `prompts` | tokens [B, 1 + 196, D] | tokens [B, 3136, D] | not asked |
| `after` 'mlp', 'qkv', ... | y [B, T, outputs] | the same | 'conv2', ...: y [B, 56, 56, 64] |
| `after` 'block' | y [B, T, D] | the same | y [B, 56, 56, 256] |
| `attention` | q, k, v [B, H, T, D / H] | [B * windows, H, P + 49, D / H] | not asked |
| `key_bias` | T keys | not asked | not asked |
| `pool` | tokens [B, T, 768] | [B, P + 49, 1024] | pixels [B, 49, 2048] |
| `features` | [B, 768] | [B, 1024] | [B, 2048] |

The backbone places the prompts: after the class token, or in every window. `spec.sites` names the
operations of a layer and their widths, `spec.outer` those outside the layers. A tuner that asks for
a site works on each family that has it.

Tuners are frozen dataclasses, not modules. Inside a scan all layers would share an implicit
parameter scope. The split, the optimizer and a population under `vmap` need explicit trees anyway.
"""

from dataclasses import dataclass, field
from typing import Any

import jax

from jax_prompt.core.facts import Facts
from jax_prompt.core.rows import without_rows
from jax_prompt.core.spec import FEATURES, IMAGE, BackboneSpec
from jax_prompt.core.tree import Tree

HOOKS = ('image', 'prompts', 'after', 'attention', 'key_bias', 'pool', 'features')


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
      mixes_images: as in the tuner's `Facts`.
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
    mixes_images: bool = False

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
        return without_rows(x, *self.prompts_at)


@dataclass(frozen=True)
class Tuner:
    """The tuner that adds nothing; the base of all others."""

    def facts(self, spec: BackboneSpec) -> Facts:
        """States what model and engine have to know of this tuner on a backbone.

        A tuner that overrides nothing leaves training to the head. Of any other nothing is assumed:
        training starts from the image, unless its own `facts` state a later cut.
        """
        return Facts(
            feature_dim=spec.feature_dim,
            layers=range(spec.num_layers),
            cut=FEATURES if type(self) is Tuner else IMAGE,
            needs_tokens=overrides(type(self), 'pool'),
            mask_obstacle=f'{type(self).__name__} does not mask prompts',
        )

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns the initial parameters {'shared': {...}, 'layers': {...}}, float32.

        Either may be missing. `core.staged.per_stage` makes 'layers' for any backbone.
        """
        del key, spec
        return {}

    def trains(self, path: str, spec: BackboneSpec) -> bool:
        """Whether the leaf at this path of the backbone's tree trains."""
        del path, spec
        return False

    def image(self, place: Place, image: jax.Array) -> jax.Array:
        """Maps the image [B, H, W, 3] before the patch embedding or the stem."""
        del place
        return image

    def prompts(self, place: Place, tokens: jax.Array) -> jax.Array:
        """Returns the prompts [B or 1, P, D] of a layer that `Facts.prompt_layers` names.

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

    def pool(self, place: Place, tokens: jax.Array, features: jax.Array) -> jax.Array:
        """Maps the pooled features [B, D], with the normalised final tokens at hand.

        Called only if the facts say `needs_tokens`.

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
          raw: features of the frozen network on the raw image, [B, D], if the facts say
            `needs_raw`, else None.
        """
        del place, raw
        return features

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
        if adds_nothing(type(self)):
            return backbone
        raise ValueError(
            f"{type(self).__name__} can't be merged into the backbone's weights; allowed: methods "
            "'lora' and 'ssf'. Keep the tuner for inference"
        )

    def calibrated(self, params: Tree, prompts: Any) -> Tree:
        """Returns the parameters with these initial prompts [prompt layers, P, D] in place.

        D is that of the widest stage; of a narrower one's prompts the first channels count.
        """
        raise NotImplementedError(f'{type(self).__name__} has no prompts to calibrate')


def overrides(kind: type[Tuner], member: str) -> bool:
    """Whether a kind of tuner has a member of its own, a hook for example."""
    return getattr(kind, member) is not getattr(Tuner, member)


def adds_nothing(kind: type[Tuner]) -> bool:
    """Whether a kind of tuner has no hook, so that only the backbone's own leaves can train."""
    return not any(overrides(kind, hook) for hook in HOOKS)
