"""Records what a network does with a few images: tokens at its blocks, attention, inner solves.

A `Recorder` is one more tuner behind the run's own. It notes what passes the hooks, so the code of
the backbone is not repeated here. The traced function returns its notes. They could not leave a
scan, so the blocks are unrolled and not rematerialised.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.backbones.families import family_of
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.model import Classifier
from jax_prompt.nn.attention import attend
from jax_prompt.tuners.compose import Compose
from jax_prompt.tuners.lion import LION


@dataclass(frozen=True)
class Recorder(Tuner):
    """Notes each block's input and attention, and changes nothing.

    Attributes:
      num_patches: N; all tokens but these are asked for what they attend to.
      tokens: the input of each block so far, [B, T, D].
      attentions: in each block so far the probabilities [B, T - N, S] with which the tokens before
        the patches attend to each key; the mean over heads.
    """

    num_patches: int
    tokens: list[jax.Array] = field(default_factory=list)
    attentions: list[jax.Array] = field(default_factory=list)

    def after(self, place: Place, site: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """Notes x, the block's input, at the first norm."""
        if site == 'ln1':
            self.tokens.append(x.astype(jnp.float32))
        return y

    def attention(
        self, place: Place, q: jax.Array, k: jax.Array, v: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Notes the probabilities: what attention makes of values that name their own key."""
        names = jnp.broadcast_to(jnp.eye(k.shape[2]), (*k.shape[:2], k.shape[2], k.shape[2]))
        asked = q[:, :, : q.shape[2] - self.num_patches]
        self.attentions.append(jnp.mean(attend(asked, k, names), axis=1))  # [B, T - N, S]
        return q, k, v


@dataclass(frozen=True)
class Record:
    """What was noted of some images; layers first.

    Attributes:
      tokens: inputs of the blocks, [L, B, C + P + N, D] float32.
      attention: probabilities of the class token, registers and prompts over all keys, the mean
        over heads, [L, B, C + P, S] float32; S is C + P + N, and key prompts where there are any.
      num_lead: C, class and register tokens.
      num_patches: N.
    """

    tokens: np.ndarray
    attention: np.ndarray
    num_lead: int
    num_patches: int

    @property
    def prompts(self) -> np.ndarray:
        """Prompts that enter each block, [L, B, P, D]; P is 0 without prompts."""
        return self.tokens[:, :, self.num_lead : self.tokens.shape[2] - self.num_patches]

    @property
    def patches(self) -> np.ndarray:
        """Patch tokens that enter each block, [L, B, N, D]."""
        return self.tokens[:, :, self.tokens.shape[2] - self.num_patches :]

    @property
    def onto_patches(self) -> np.ndarray:
        """Attention of the class token, registers and prompts to each patch, [L, B, C + P, N]."""
        first = self.attention.shape[2]
        return self.attention[..., first : first + self.num_patches]

    @property
    def onto_prompts(self) -> np.ndarray:
        """The same to all prompts together, those among the keys included, [L, B, C + P]."""
        lead = self.attention[..., : self.num_lead].sum(axis=-1)
        return self.attention.sum(axis=-1) - lead - self.onto_patches.sum(axis=-1)


def record(classifier: Classifier, params: Tree, images: jax.Array) -> Record:
    """Runs the tuned network as in evaluation and notes tokens and attention.

    Args:
      classifier: the model; of its backbone only the blocks' form may change, not their result.
      params: {'backbone', 'tuner'} and more.
      images: normalised, [B, H, W, 3] float32.

    Raises:
      ValueError: the backbone's blocks differ in width or attend within windows.
    """
    spec = classifier.spec
    if not spec.attends_globally:
        raise ValueError(
            f'tokens and attention of a {spec.family} can not be laid side by side over its stages '
            "and windows; allowed: backbones of the family 'vit'"
        )
    tokens, attention = _record(classifier, params, images)
    return Record(np.asarray(tokens), np.asarray(attention), spec.num_lead, spec.num_patches)


@partial(jax.jit, static_argnames='classifier')
def _record(classifier: Classifier, params: Tree, images: jax.Array) -> tuple[Any, Any]:
    config = replace(classifier.backbone.config, scan=False, remat='none')
    recorder = Recorder(classifier.spec.num_patches)
    tuner = Compose((('tuner', classifier.tuner), ('recorder', recorder)))
    own = {group: {'tuner': leaves} for group, leaves in params.get('tuner', {}).items()}
    backbone = family_of(config).make(config, classifier.backbone.seams)
    backbone.apply({'params': params['backbone']}, images, tuner, own)
    return jnp.stack(recorder.tokens), jnp.stack(recorder.attentions)


def find_parts(tuner: Tuner, params: Tree, kind: type) -> Iterator[tuple[Any, Tree]]:
    """Yields (tuner, its parameters) of a kind: the tuner itself, or the parts of a combination."""
    if isinstance(tuner, kind):
        yield tuner, params
    for name, part in tuner.parts if isinstance(tuner, Compose) else ():
        own = {group: leaves[name] for group, leaves in params.items() if name in leaves}
        yield from find_parts(part, own, kind)


def solve_residuals(
    classifier: Classifier, params: Tree, images: jax.Array, most: int
) -> dict[str, np.ndarray]:
    """Computes how far LION's forward solves have come after each of their steps.

    The solver is the one that the run evaluates with, without a tolerance. A residual is that of
    the best point so far.

    Args:
      classifier: the model.
      params: {'backbone', 'tuner'} and more.
      images: normalised, [B, H, W, 3] float32.
      most: steps at most.

    Returns:
      ||f(z) - z|| / ||f(z)|| of each block, 'p1' and 'p2', [most, B] float32; {} without LION.
    """
    parts = list(find_parts(classifier.tuner, params.get('tuner', {}), LION))
    if not parts:
        return {}
    (lion, own) = parts[0]
    features, raw = _features(classifier, params, images)
    whole = replace(lion, eval_max_iter=most, eval_rtol=0.0)
    return jax.device_get(_residuals(whole, own['shared'], images, features, raw))


@partial(jax.jit, static_argnames='classifier')
def _features(classifier: Classifier, params: Tree, images: jax.Array) -> tuple[Any, Any]:
    """Returns the features [B, D] of the tuned network and of the bare one."""
    weights = {'params': params['backbone']}
    features = classifier.backbone.apply(weights, images, classifier.tuner, params.get('tuner', {}))
    return features, classifier.raw_features(params['backbone'], images)


@partial(jax.jit, static_argnames='lion')
def _residuals(lion: LION, shared: Tree, image: Any, features: Any, raw: Any) -> Tree:
    return lion.residuals(Place(shared=shared, image=image), image, features, raw)
