"""Stacked blocks, run as one scan a segment, with the tuner's prompts where it asks for them.

What all transformers here share: a segment is a run of like blocks, its parameters and the tuner's
stacked along a leading layer axis; a backbone gives the function of one block. The parameters of a
segment are made by `vmap` of one block's and passed to it explicitly inside `lax.scan`; Linen's
lifted scan would need the tuner's parameters as module variables and could not stop at a cut.

Memory of the backward pass (`remat`): 'none' keeps what automatic differentiation asks for; 'save'
keeps four tensors a block (its input, qkv, the residual after attention, the input of GELU) and
recomputes only norms, softmax and GELU; 'full' keeps the block's input and recomputes the block.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jax_prompt.core.devices import whole
from jax_prompt.core.spec import BackboneSpec, Cut
from jax_prompt.core.staged import segment
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Place, Tuner

SAVED = ('qkv', 'mid', 'fc1')

# block(weights, tokens, place, drop path rate) -> tokens
Block = Callable[[Tree, jax.Array, Place, Any], jax.Array]


@dataclass(frozen=True)
class Stack:
    """How the blocks of one backbone run.

    Attributes:
      spec: the backbone.
      seams: layers at which segments begin and end.
      rates: drop path rate of each layer, [L].
      remat: 'none', 'save' or 'full'.
      scan: whether blocks run as a loop of the compiled program or one after the other.
    """

    spec: BackboneSpec
    seams: Collection[int]
    rates: jax.Array
    remat: str
    scan: bool

    def run(
        self,
        block: Block,
        blocks: Tree,
        x: jax.Array,
        tuner: Tuner,
        params: Tree,
        place: Place,
        span: tuple[int, int],
    ) -> jax.Array:
        """Runs the blocks of one segment; the tuner's prompts enter where it asks for them.

        Args:
          block: computes one block.
          blocks: its weights for each layer, leaves [last - first, ...].
          x: tokens [B, C + N, D], with prompts after the lead tokens where such have entered that
            the next layer does not replace.
          tuner: answers the hooks.
          params: the tuner's parameters.
          place: the place outside the layers.
          span: (first, last) of the layers.

        Returns:
          Tokens [B, C + P + N, D]; without prompts where the next layer has its own.
        """
        spec, (first, last), lead = self.spec, span, self.spec.num_lead
        facts = tuner.facts(spec)
        asked, length = facts.prompt_layers, facts.prompt_length
        # The leaves of these layers, [last - first, ...].
        own = segment(params.get('layers', {}), span, facts, spec)
        ends = {0, spec.num_layers, *self.seams}
        if len(asked) and (asked[0] not in ends or (len(asked) > 1 and asked.stop not in ends)):
            raise ValueError(f'prompts stand in blocks {asked}; both ends must be seams')
        inside = len(asked) > 1 and first >= asked.start and last <= asked.stop
        # Prompts are replaced by the next layer's: what becomes of them is never computed.
        ending = inside and last < asked.stop
        stage, stage_start = spec.stage_of(first)
        place = replace(
            place,
            stage=stage,
            stage_start=stage_start,
            prompts_at=(lead, length) if length else (0, 0),
            prompts_end=ending,
            mixes_images=facts.mixes_images,
        )

        def at(layer: Any, layer_params: Tree) -> Place:
            key = None if place.key is None else jax.random.fold_in(place.key, layer)
            return replace(place, params=layer_params, layer=layer, key=key)

        if len(asked) == 1 and first == asked[0]:
            here = at(first, jax.tree.map(lambda leaf: leaf[0], own))
            x = _insert(x, tuner.prompts(here, x), lead)
        elif inside and not ending:  # the scan below fills the places
            x = _insert(x, jnp.zeros((1, length, x.shape[-1]), x.dtype), lead)

        def body(x: jax.Array, inputs: Any) -> tuple[jax.Array, None]:
            layer, weights, layer_params, rate = inputs
            here = at(layer, layer_params)
            if inside:
                bare = x if ending else here.without_prompts(x)
                x = _insert(bare, tuner.prompts(here, bare), lead)
            return block(whole(weights), x, here, rate), None

        body = _rematerialised(body, self.remat)
        inputs = (jnp.arange(first, last), blocks, own, self.rates[first:last])
        if self.scan:
            return jax.lax.scan(body, x, inputs)[0]
        for i in range(last - first):
            x, _ = body(x, jax.tree.map(lambda leaf, i=i: leaf[i], inputs))
        return x


def check_cuts(name: str, depth: int, seams: Collection[int], start: Cut, stop: Cut) -> None:
    """Checks that a stretch of a backbone begins and ends where its stacked blocks do.

    Args:
      name: the family's name, for the message.
      depth: L, blocks.
      seams: layers at which segments begin and end, 0 among them.
      start: where the input stands.
      stop: where the output stands.

    Raises:
      ValueError: a block that is no seam.
    """
    for cut in (start, stop):
        if 0 <= cut.block < depth and cut.block not in seams:
            raise ValueError(
                f'block {cut.block} is no seam of this {name}; seams: {sorted(set(seams))}. '
                'Build it with seams=(that block,)'
            )


def check_images(name: str, images: jax.Array, size: int) -> None:
    """Checks the images that enter a backbone.

    Args:
      name: the family's name, for the message.
      images: [B, H, W, C].
      size: side of the square image that the backbone takes, in pixels.

    Raises:
      ValueError: images of another shape than [B, size, size, 3].
    """
    if images.ndim != 4 or images.shape[1:] != (size, size, 3):
        raise ValueError(
            f'images of shape {images.shape}; this {name} takes [B, {size}, {size}, 3]: resize '
            'them or set image_size'
        )


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
