"""The kind of a pack: packs of one kind run in one program, each image with its own pack's leaves.

Packs are of one kind if their classifiers differ in nothing but the number of classes and, where
prompts can be masked, the number of prompts. What acts in training alone (dropout, drop path, what
the backward pass keeps) makes no difference. The kind's program has the widest head and the most
prompts of its packs. Shorter packs are filled up with zeros: logits past a pack's own classes are
cut off, and prompts past its own number are masked.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import jax

from jax_prompt.core.spec import FEATURES
from jax_prompt.core.tree import Tree, flatten, segment_name, segment_span, segments
from jax_prompt.core.tuner import Tuner
from jax_prompt.data.transforms import centre, to_model
from jax_prompt.model import Classifier
from jax_prompt.search.padding import mask_obstacle
from jax_prompt.train.program import Program
from jax_prompt.tuners.compose import Compose

# Settings of a network that act in training alone, and what they are here.
_AT_REST = {'drop_path_rate': 0.0, 'patch_drop_rate': 0.0, 'remat': 'none'}


@dataclass(frozen=True)
class Kind:
    """What a program of mixed tasks is made of; equal kinds share compiled code.

    Attributes:
      classifier: the model, with the widest head and the most prompts of its packs.
      image_size: side of the image that the model takes, in pixels.
      mean: per-channel mean that the weights want, images in [0, 1].
      std: per-channel standard deviation, likewise.
      frozen_dtype: dtype in which the frozen weights are kept.
    """

    classifier: Classifier
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    frozen_dtype: str

    @property
    def masks(self) -> bool:
        """Whether packs with unlike numbers of prompts are of this kind."""
        return not mask_obstacle(self.classifier)

    @property
    def num_prompts(self) -> int:
        """P of the program."""
        return self.classifier.facts.prompt_length

    @property
    def num_classes(self) -> int:
        """K of the program."""
        return self.classifier.num_classes

    @property
    def shares_features(self) -> bool:
        """Whether it takes the frozen network's features of the image, which tasks can share."""
        return self.from_features or self.classifier.facts.needs_raw

    @property
    def from_features(self) -> bool:
        """Whether it takes nothing but these features (linear, mlp, LION's P2 alone)."""
        return self.classifier.facts.cut == FEATURES

    @property
    def bare(self) -> 'Kind':
        """The kind of the frozen network alone; kinds with equal ones share features."""
        module: Any = self.classifier.backbone
        plain = Classifier(module.clone(seams=()), self.classifier.spec, Tuner(), 2)
        return replace(self, classifier=plain)

    @cached_property
    def shapes(self) -> dict[str, Any]:
        """Paths, shapes and dtypes of what a pack adds."""
        return flatten(jax.eval_shape(self.classifier.init_added, jax.random.key(0)))

    def sized(self, num_classes: int, num_prompts: int) -> 'Kind':
        """Returns the kind with this many classes, and prompts where they can be masked."""
        classifier = replace(self.classifier, num_classes=num_classes)
        if self.masks:
            tuner: Any = classifier.tuner
            classifier = replace(classifier, tuner=replace(tuner, num_prompts=num_prompts))
        return replace(self, classifier=classifier)

    def view(self, images: jax.Array) -> jax.Array:
        """Maps stored images [B, S, S, 3] to what the network takes, as a run's evaluation does."""
        return to_model(centre(images, self.image_size), self.mean, self.std)

    def features(self, frozen: Tree, images: jax.Array) -> jax.Array:
        """Computes the frozen network's features [B, D] of stored images."""
        return self.classifier.raw_features(self._segmented(frozen), self.view(images))

    def logits(self, own: Tree, frozen: Tree, images: jax.Array | None, raw: Any) -> jax.Array:
        """Computes the logits [B, K] of images of one task.

        Args:
          own: what its pack adds, {'tuner', 'head'}.
          frozen: the backbone's parameters, stacked as its own configuration asks.
          images: stored images [B, S, S, 3]; None: from the features alone.
          raw: features of the frozen network [B, D], where the kind shares them.
        """
        if images is None:
            params = {'backbone': {}, **own}
            return self.classifier.apply(params, raw, start=FEATURES)
        params = {'backbone': self._segmented(frozen), **own}
        return self.classifier.apply(params, self.view(images), raw=raw)

    def _segmented(self, frozen: Tree) -> Tree:
        """Cuts the stacked layers where the method has seams of its own; else they stay whole."""
        network: Any = self.classifier.backbone
        spans = segments(network.config.depth, (*network.config.seams, *network.seams))
        held = {span: key for key in frozen if (span := segment_span(key))}
        out = {key: value for key, value in frozen.items() if not segment_span(key)}
        for first, last in spans:
            start, key = next((s, k) for (s, e), k in held.items() if s <= first and last <= e)
            inside = slice(first - start, last - start)
            out[segment_name(first, last)] = jax.tree.map(lambda x, i=inside: x[i], frozen[key])
        return out


def kind_of(program: Program, frozen_dtype: str) -> Kind:
    """Returns the kind of a pack, with its own numbers of classes and prompts.

    Args:
      program: its program.
      frozen_dtype: dtype of the frozen weights.
    """
    own = program.classifier
    module: Any = own.backbone
    settings = {f.name for f in fields(module.config)} & _AT_REST.keys()
    config = replace(module.config, **{name: _AT_REST[name] for name in settings})
    classifier = replace(
        own, backbone=module.clone(config=config), tuner=_at_rest(own.tuner), head_std=0.02
    )
    return Kind(classifier, program.image_size, program.mean, program.std, frozen_dtype)


def _at_rest(tuner: Any) -> Any:
    """Returns a tuner without dropout, which acts in training alone."""
    if isinstance(tuner, Compose):
        return Compose(tuple((name, _at_rest(part)) for name, part in tuner.parts))
    return replace(tuner, dropout_rate=0.0) if hasattr(tuner, 'dropout_rate') else tuner
