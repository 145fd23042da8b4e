"""Classifier = backbone + tuner + head, with parameters {'backbone', 'tuner', 'head'}."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from jax_prompt.backbones.architectures import Config
from jax_prompt.backbones.families import family_of
from jax_prompt.backbones.stack import Stacked
from jax_prompt.core.facts import Facts
from jax_prompt.core.spec import FEATURES, IMAGE, BackboneSpec, Cut
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.method import Method
from jax_prompt.methods import check_fits


@dataclass(frozen=True)
class Classifier:
    """A backbone, what a method adds to it, and a linear head.

    Attributes:
      backbone: the Flax module from images to features.
      spec: what is known of the backbone.
      tuner: answers the hooks.
      num_classes: K.
      head_std: standard deviation of the head's initial kernel (SPT: .02; .01 for MoCo-v3).
      head_init: how the head starts. 'normal': normal with `head_std`, bias 0. timm's
        `trunc_normal_` does this too, as it cuts at -2 and 2, a hundred standard deviations away.
        'kaiming': normal with variance 2 / K, bias -log(99), as VPT's code.
    """

    backbone: Stacked
    spec: BackboneSpec
    tuner: Tuner
    num_classes: int
    head_std: float = 0.02
    head_init: str = 'normal'

    @cached_property
    def facts(self) -> Facts:
        """What the tuner states of itself on this backbone."""
        return self.tuner.facts(self.spec)

    @property
    def mixes_examples(self) -> bool:
        """Whether in training an image's result depends on the others of its batch.

        A batch then has to be computed whole: by batch norms of the batch, or prompts in windows of
        other images.
        """
        by_batch = getattr(self.backbone.config, 'batch_statistics', False)
        return by_batch or self.facts.mixes_images

    def init(self, key: jax.Array) -> Tree:
        """Returns random parameters {'backbone', 'tuner', 'head'}, float32."""
        backbone_key, key = jax.random.split(key)
        size = self.spec.image_size
        backbone = self.backbone.init(backbone_key, jnp.zeros((1, size, size, 3)))['params']
        return {'backbone': backbone, **self.init_added(key)}

    def init_added(self, key: jax.Array) -> Tree:
        """Returns random parameters of what is added: {'tuner', 'head'}, float32."""
        tuner_key, head_key = jax.random.split(key)
        shape = (self.facts.feature_dim, self.num_classes)
        kaiming = self.head_init == 'kaiming'
        std = math.sqrt(2 / self.num_classes) if kaiming else self.head_std
        kernel = std * jax.random.normal(head_key, shape)
        bias = jnp.full((self.num_classes,), -math.log(99) if kaiming else 0.0, jnp.float32)
        head = {'kernel': kernel, 'bias': bias}
        return {'tuner': self.tuner.init(tuner_key, self.spec), 'head': head}

    def apply(
        self,
        params: Tree,
        x: jax.Array,
        *,
        start: Cut = IMAGE,
        key: jax.Array | None = None,
        train: bool = False,
        raw: jax.Array | None = None,
        probes: Tree | None = None,
    ) -> jax.Array:
        """Computes the logits.

        Args:
          params: {'backbone', 'tuner', 'head'}.
          x: normalised images [B, H, W, 3] float32, or what `prefix` gives at `start`.
          start: where x stands.
          key: random key for dropout and drop path, in training.
          train: whether this is a training step.
          raw: features of the frozen backbone on the same images [B, D]; without them they are
            computed where the tuner needs them.
          probes: the tuner's probes (`Tuner.probes`), in training.

        Returns:
          Logits [B, K] float32.
        """
        tuner_params = {**params.get('tuner', {}), 'probe': probes or {}}
        features: Any = x
        if start == FEATURES:
            raw = x
        elif raw is None and self.facts.needs_raw:
            raw = self.raw_features(params['backbone'], x, start)
        if self.facts.bare and raw is not None:
            features = raw
        elif start != FEATURES:
            features = self.backbone.apply(
                {'params': params['backbone']},
                x,
                self.tuner,
                tuner_params,
                key=key,
                train=train,
                start=start,
            )
        place = Place.outside(tuner_params, x if start.at_image else None, key, train)
        features = self.tuner.features(place, features, raw)
        head = params['head']
        return features.astype(jnp.float32) @ head['kernel'] + head['bias']

    def raw_features(self, backbone_params: Tree, x: jax.Array, start: Cut = IMAGE) -> jax.Array:
        """Computes the features [B, D] of the backbone alone; no gradient passes."""
        variables = {'params': jax.lax.stop_gradient(backbone_params)}
        out: Any = self.backbone.apply(variables, jax.lax.stop_gradient(x), start=start)
        return out

    def prefix(
        self, backbone_params: Tree, images: jax.Array, cut: Cut, tuner_params: Tree | None = None
    ) -> jax.Array:
        """Computes the frozen part before the cut: tokens [B, C + N, D] or features [B, D].

        With the parameters of a tuner that doesn't train, the tuner acts too.
        """
        if cut.at_image:
            return images
        tuner = None if tuner_params is None else self.tuner
        out: Any = self.backbone.apply(
            {'params': backbone_params}, images, tuner, tuner_params, stop=cut
        )
        return out


def build_classifier(
    config: Config,
    method: Method,
    num_classes: int,
    *,
    head_std: float = 0.02,
    head_init: str = 'normal',
    **options: Any,
) -> Classifier:
    """Builds the classifier of a method.

    Args:
      config: the backbone's configuration.
      method: a row of `methods.METHODS`.
      num_classes: K, at least 2.
      head_std: see `Classifier`.
      head_init: likewise.
      **options: the tuner's options (`method.options()` lists them).

    Raises:
      ValueError: fewer than two classes, an option that the method has not, or a method that does
        not fit the backbone.
    """
    if num_classes < 2:
        raise ValueError(f'{num_classes} class; a classifier needs at least 2')
    if method.follows_batches(config):
        config = replace(config, batch_statistics=True)  # type: ignore[arg-type]
    spec, tuner = config.spec(), method.make_tuner(**options)
    check_fits(method, tuner, spec)
    seams = tuple(seam for seam in tuner.facts(spec).seams if 0 < seam < spec.num_layers)
    backbone = family_of(config).make(config, seams)
    return Classifier(backbone, spec, tuner, num_classes, head_std, head_init)
