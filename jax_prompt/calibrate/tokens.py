"""Gives calibration the tokens of the frozen backbone: before, between and after its blocks."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.backbones.stack import run_block
from jax_prompt.core.spec import BackboneSpec, Cut
from jax_prompt.core.tree import Tree, segment_name, segment_span
from jax_prompt.train.program import Program


@dataclass(frozen=True)
class BackboneTokens:
    """A `calibrate.TokenSource` over a backbone whose blocks are all alike, or over one stage.

    Attributes:
      program: says how stored images become what the backbone takes.
      params: the backbone's parameters.
      stage: name of the stage; '' where all blocks are alike.
    """

    program: Program
    params: Tree
    stage: str = ''

    def __post_init__(self):
        spec = self.program.classifier.spec
        if not spec.has_tokens:
            raise ValueError(f'a {spec.family} has no tokens to make prototypes of; take a ViT')

    def stages(self) -> dict[str, 'BackboneTokens']:
        """Returns the source of each stage by name, {} where all blocks are alike."""
        names = self.program.classifier.spec.runs() if not self.stage else {}
        return {name: replace(self, stage=name) for name in names if name}

    @property
    def _spec(self) -> BackboneSpec:
        return self.program.classifier.spec.runs()[self.stage]

    @property
    def _first(self) -> int:
        """Index of the stage's first block in the backbone."""
        depth, spec = 0, self.program.classifier.spec
        for name, run in spec.runs().items():
            if name == self.stage:
                break
            depth += run.num_layers
        return depth

    @property
    def depth(self) -> int:
        """Blocks of the stage."""
        return self._spec.num_layers

    def embed(self, images: Any) -> jax.Array:
        """Returns the tokens [B, C + N, D] entering its block 0 of uint8 images [B, S, S, 3]."""
        return _embed(self.program, self.params, jnp.asarray(images), Cut(self._first))

    def advance(self, tokens: jax.Array, layer: int) -> jax.Array:
        """Returns the tokens [B, C + N, D] leaving its block `layer`."""
        layer += self._first
        spans = filter(None, map(segment_span, self.params))
        first, last = next(span for span in spans if span[0] <= layer < span[1])
        blocks = self.params[segment_name(first, last)]
        return _advance(self.program, blocks, tokens, layer - first, first)

    def patches(self, tokens: jax.Array) -> jax.Array:
        """Returns the patch tokens [B, N, D]."""
        return tokens[:, self.program.classifier.spec.num_lead :]

    def collect_embedding(self, images: Any) -> jax.Array:
        """Returns the patch embedding before positions, [B, N, D]; past stage 0 what enters it."""
        if self._first:
            return self.embed(images)
        return _embedding(self.program, self.params, jnp.asarray(images))


class StreamedImages:
    """A streamed split as calibration indexes images: rows of indices in, uint8 images out."""

    def __init__(self, stream: Any):
        self.stream = stream

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.stream)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns the images at these indices, [B, S, S, 3] uint8."""
        return next(iter(self.stream.batches(np.asarray(index)[None])))[0]


@partial(jax.jit, static_argnames=('program', 'cut'))
def _embed(program: Program, params: Tree, images: jax.Array, cut: Cut) -> jax.Array:
    return program.classifier.prefix(params, program.view(images), cut)


@partial(jax.jit, static_argnames=('program', 'first'))
def _advance(
    program: Program, blocks: Tree, tokens: jax.Array, layer: jax.Array, first: int
) -> jax.Array:
    return run_block(program.classifier.backbone, blocks, tokens, layer, first)


@partial(jax.jit, static_argnames='program')
def _embedding(program: Program, params: Tree, images: jax.Array) -> jax.Array:
    backbone, view = program.classifier.backbone, program.view(images)
    out: Any = backbone.apply({'params': params}, view, bare_patches=True)
    return out
