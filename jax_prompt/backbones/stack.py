"""What all families of backbones share: the way from images to features over stacked blocks.

A segment is a run of like blocks. Its parameters are stacked along a leading layer axis, as those
of the tuner are, and it runs as one scan. They are made by `vmap` of one block's and passed to it
explicitly. Linen's lifted scan would need the tuner's parameters as module variables and could not
stop at a cut. A scan compiles one block instead of L and runs as fast or faster on CPU. A family
subclasses `Stacked` and gives `embed`, `blocks`, `between` and `pool`.

Memory of the backward pass (`remat`): 'none' keeps what automatic differentiation asks for; 'save'
keeps four tensors a block (its input, qkv, the residual after attention, the input of GELU) and
recomputes only norms, softmax and GELU; 'full' keeps the block's input and recomputes the block.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_prompt.core.devices import whole
from jax_prompt.core.facts import Facts
from jax_prompt.core.spec import FEATURES, IMAGE, BackboneSpec, Cut
from jax_prompt.core.staged import segment
from jax_prompt.core.tree import Put, Tree, keep, segment_name, segments, stack_layers
from jax_prompt.core.tuner import Place, Tuner

SAVED = ('qkv', 'mid', 'fc1')


class Blocks(NamedTuple):
    """Like blocks.

    Attributes:
      module: one of them. It is called with (x, tuner, place, drop path rate) and returns x.
      entering: shape of something that may enter it; its parameters, and what follows, need it.
      loop: whether it may run as a loop of the compiled program.
    """

    module: nn.Module
    entering: tuple[int, ...]
    loop: bool = True


class Stacked(nn.Module):
    """A backbone: images to pooled features, or any stretch of that way.

    x is [B, C + N, D] where a family has tokens (C class and register tokens), and a feature map
    [B, H, W, C] where it has none.

    Attributes:
      config: its configuration.
      seams: layers at which the stacked blocks are cut into segments, besides `config.seams`.
      traced: `init` makes one layer of each segment, to learn shapes; such a network can't run.
    """

    config: Any
    seams: tuple[int, ...] = ()
    traced: bool = False

    def embed(self, images: jax.Array, tuner: Tuner, place: Place, bare_patches: bool) -> jax.Array:
        """Maps images [B, H, W, 3] to what enters block 0, or to their bare patch embeddings."""
        raise NotImplementedError

    def blocks(self, span: tuple[int, int], facts: Facts) -> Blocks:
        """Returns the blocks of a segment, layers first to last - 1, for a tuner of these facts."""
        raise NotImplementedError

    def between(self, layer: int, x: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """Maps what leaves the block before a layer to what enters it, where a segment begins."""
        del layer, tuner, place
        return x

    def pool(self, x: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """Maps what leaves the last block to features [B, D] float32."""
        raise NotImplementedError

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        tuner: Tuner | None = None,
        tuner_params: Tree | None = None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
        start: Cut = IMAGE,
        stop: Cut = FEATURES,
        bare_patches: bool = False,
    ) -> Any:
        """Runs the network from `start` to `stop`.

        Args:
          x: normalised images [B, H, W, 3] float32 if `start` is the image, else what enters block
            `start`.
          tuner: answers the hooks; None adds nothing.
          tuner_params: the tuner's parameters, {'shared': ..., 'layers': ...}, and its probes as
            {'probe': ...} where it has any.
          key: random key for dropout, drop path and the hooks; None: nothing is random.
          train: whether this is a training step.
          start: where x stands. A block must be a seam, or 0.
          stop: FEATURES for pooled features, or the block whose input is wanted (a seam, or 0).
          bare_patches: return the patch embeddings [B, N, D] before positions.

        Returns:
          Features [B, D] float32, or what enters the block `stop`: tokens [B, C + P + N, D], P = 0
          before a block with prompts of its own, or a feature map [B, H, W, C].

        Raises:
          ValueError: images of another size, a start or stop that is no seam, or bare patches of a
            network without any.
        """
        tuner, params, depth = tuner or Tuner(), tuner_params or {}, self.config.depth
        self._check(x, start, stop, bare_patches)
        place = Place.outside(params, x if start.at_image else None, key, train)
        if start.at_image:
            x = self.embed(tuner.image(place, x), tuner, place, bare_patches)
        if bare_patches:
            return x
        for first, last in segments(depth, self._seams):
            if max(start.block, 0) < first <= stop.block:
                x = self.between(first, x, tuner, place)
            inside = first >= max(start.block, 0) and last <= stop.block
            if not (inside or self.is_initializing()):
                continue  # a prefix needs no parameters beyond its stop
            blocks = self.blocks((first, last), tuner.facts(self.config.spec()))
            number = 0 if self.traced else last - first
            weights = self.param(segment_name(first, last), partial(_init, blocks, number))
            if self.is_initializing():
                x = jnp.zeros(blocks.entering)  # parameters ask for shapes: no block has to run
            elif inside:
                x = self._run(blocks, weights, x, tuner, params, place, (first, last))
        return self.pool(x, tuner, place) if stop.block >= depth else x

    @property
    def _seams(self) -> tuple[int, ...]:
        return (*self.config.seams, *self.seams)

    def _check(self, x: jax.Array, start: Cut, stop: Cut, bare_patches: bool) -> None:
        """Checks the images that enter, and that a stretch begins and ends at seams."""
        name, size, seams = type(self).__name__, self.config.image_size, {0, *self._seams}
        if bare_patches and not self.config.spec().has_tokens:
            raise ValueError(f'a {name} has no patch embeddings; take a ViT or a Swin')
        for cut in (start, stop):
            if 0 <= cut.block < self.config.depth and cut.block not in seams:
                raise ValueError(
                    f'block {cut.block} is no seam of this {name}; seams: {sorted(seams)}. '
                    'Build it with seams=(that block,)'
                )
        if start.at_image and (x.ndim != 4 or x.shape[1:] != (size, size, 3)):
            raise ValueError(
                f'images of shape {x.shape}; this {name} takes [B, {size}, {size}, 3]: resize '
                'them or set image_size'
            )

    def _run(
        self,
        blocks: Blocks,
        weights: Tree,
        x: jax.Array,
        tuner: Tuner,
        params: Tree,
        place: Place,
        span: tuple[int, int],
    ) -> jax.Array:
        """Runs the blocks of one segment; the tuner's prompts enter where it asks for them.

        Args:
          blocks: what they are.
          weights: their weights, leaves [last - first, ...].
          x: what enters the first, with prompts after the lead tokens where such have entered that
            the next layer does not replace.
          tuner: answers the hooks.
          params: the tuner's parameters.
          place: the place outside the layers.
          span: (first, last) of the layers.

        Returns:
          What leaves the last; without prompts where the next layer has its own.
        """
        cfg, spec, (first, last) = self.config, self.config.spec(), span
        facts, lead = tuner.facts(spec), spec.num_lead
        # The tuner's leaves of these layers, [last - first, ...].
        own = segment(params.get('layers', {}), span, facts, spec)
        place, inside = _place_of(facts, spec, self._seams, span, place)
        if len(facts.prompt_layers) == 1 and first == facts.prompt_layers[0]:
            here = _at(place, first, jax.tree.map(lambda leaf: leaf[0], own))
            x = _insert(x, tuner.prompts(here, x), lead)
        elif inside and not place.prompts_end:  # the scan below fills the places
            x = _insert(x, jnp.zeros((1, facts.prompt_length, x.shape[-1]), x.dtype), lead)

        def body(x: jax.Array, inputs: Any) -> tuple[jax.Array, None]:
            layer, weights, layer_params, rate = inputs
            here = _at(place, layer, layer_params)
            if inside:
                bare = x if place.prompts_end else here.without_prompts(x)
                x = _insert(bare, tuner.prompts(here, bare), lead)
            out: Any = blocks.module.apply({'params': whole(weights)}, x, tuner, here, rate)
            return out, None

        body = _rematerialised(body, cfg.remat)
        rates = jnp.linspace(0.0, getattr(cfg, 'drop_path_rate', 0.0), cfg.depth)
        inputs = (jnp.arange(first, last), weights, own, rates[first:last])
        if cfg.scan and blocks.loop:
            return jax.lax.scan(body, x, inputs)[0]
        for i in range(last - first):
            x, _ = body(x, jax.tree.map(lambda leaf, i=i: leaf[i], inputs))
        return x


def _init(blocks: Blocks, count: int, key: jax.Array) -> Tree:
    """Makes the parameters of `count` like blocks, leaves [count, ...]; of one block for 0."""
    block, dummy = blocks.module, jnp.zeros(blocks.entering)
    make = lambda k: block.init(k, dummy, Tuner(), Place(), 0.0)['params']  # noqa: E731
    return jax.vmap(make)(jax.random.split(key, count)) if count else make(key)


def _place_of(
    facts: Facts, spec: BackboneSpec, seams: Sequence[int], span: tuple[int, int], place: Place
) -> tuple[Place, bool]:
    """Returns the place of a segment's layers, and whether each of them has prompts of its own.

    Raises:
      ValueError: the layers with prompts begin or end within a segment.
    """
    (first, last), ends = span, {0, spec.num_layers, *seams}
    asked, length = facts.prompt_layers, facts.prompt_length
    if len(asked) and (asked[0] not in ends or (len(asked) > 1 and asked.stop not in ends)):
        raise ValueError(f'prompts stand in blocks {asked}; both ends must be seams')
    inside = len(asked) > 1 and first >= asked.start and last <= asked.stop
    stage, stage_start = spec.stage_of(first)
    segment = replace(
        place,
        stage=stage,
        stage_start=stage_start,
        prompts_at=(spec.num_lead, length) if length else (0, 0),
        # Prompts are replaced by the next layer's: what becomes of them is never computed.
        prompts_end=inside and last < asked.stop,
        mixes_images=facts.mixes_images,
    )
    return segment, inside


def _at(place: Place, layer: Any, params: Tree) -> Place:
    """Returns the place of one layer of a segment; its index may be traced."""
    key = None if place.key is None else jax.random.fold_in(place.key, layer)
    return replace(place, params=params, layer=layer, key=key)


def _insert(x: jax.Array, prompts: jax.Array, lead: int) -> jax.Array:
    """Places prompts [B or 1, P, D] after the lead tokens of x [B, C + N, D]."""
    prompts = jnp.broadcast_to(prompts, (x.shape[0], *prompts.shape[1:])).astype(x.dtype)
    return jnp.concatenate([x[:, :lead], prompts, x[:, lead:]], axis=1)  # [B, C + P + N, D]


def _rematerialised(body, remat: str):
    if remat == 'none':
        return body
    policy = jax.checkpoint_policies.save_only_these_names(*SAVED) if remat == 'save' else None
    # Inside a scan the loop itself keeps XLA from merging the recomputation with the original.
    return jax.checkpoint(body, policy=policy, prevent_cse=False)


def adapt(tree: Tree, config: Any, seams: tuple[int, ...] = (), put: Put = keep) -> Tree:
    """Turns a checkpoint's per-layer tree, whose leaves fit, into the running form of `config`.

    Args:
      tree: `block_00/...` form (`weights.load`).
      config: the network to run.
      seams: as in `Stacked`.
      put: as in `core.tree.stack_layers`.

    Returns:
      The tree that the network takes.
    """
    return stack_layers(tree, (*config.seams, *seams), put)


def run_block(
    backbone: Any, weights: Tree, x: jax.Array, layer: jax.Array, first: int = 0
) -> jax.Array:
    """Runs one frozen block, without a tuner, on all its tokens.

    Args:
      backbone: the network, a `Stacked`.
      weights: the stacked weights of like blocks, leaves [L, ...].
      x: tokens entering the block, [B, T, D].
      layer: index of the block among these; may be traced, so that one program serves all layers.
      first: index of the first of these blocks in the network.

    Returns:
      The tokens leaving it, [B, T, D], before what lies between stages.
    """
    facts = Tuner().facts(backbone.config.spec())
    block = backbone.blocks((first, first), facts).module  # like all from the first on
    weights = jax.tree.map(lambda leaf: leaf[layer], weights)
    out: Any = block.apply({'params': weights}, x, Tuner(), Place(layer=first + layer), 0.0)
    return out
