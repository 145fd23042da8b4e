"""One training step: what a training program is made of, and what it computes.

A step starts from images or from cached activations (the frozen prefix is skipped). Gradients exist
for the trainable tree only; the frozen tree is an argument like the images. `compiled.py` makes
programs of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jax_prompt.core.spec import FEATURES, IMAGE, Cut
from jax_prompt.core.tree import Tree, merge
from jax_prompt.data.given import check_images
from jax_prompt.data.stored import WithRaw
from jax_prompt.data.transforms import Augment, augment, centre, to_model
from jax_prompt.method import Transform
from jax_prompt.model import Classifier
from jax_prompt.train.mesh import in_context, shard_batch
from jax_prompt.train.micro_batch import BatchPart, in_parts, map_parts
from jax_prompt.train.optim import Hyper, Optim, make_optimizer, weight_gradients


class TrainState(NamedTuple):
    """All that training changes.

    Attributes:
      step: optimizer steps done, int32 scalar.
      trainable: the trainable tree.
      opt_state: the optimizer's state.
      ema: moving average of the trainable tree ({} without one).
    """

    step: jax.Array
    trainable: Tree
    opt_state: Any
    ema: Tree


@dataclass(frozen=True)
class Program:
    """What a training program is made of; two equal programs compile to the same code.

    Attributes:
      classifier: the model.
      optim: the optimizer's recipe.
      epochs: length of the schedule.
      steps_per_epoch: optimizer steps an epoch.
      augment: what happens to a training image.
      image_size: side of the image that the model takes, in pixels.
      mean: per-channel mean that the weights want, images in [0, 1].
      std: per-channel standard deviation, likewise.
      start: where the stored data stands: the image, or the cut that the cache holds.
      transform: what the method wraps the optimizer in, if anything.
      skip_nonfinite: leave out a step whose loss or gradient is not finite, and count it.
      mesh: devices that share each batch; None for one device.
      micro_batch: most images whose gradient is formed at once; a larger batch is cut into equal
        parts and their gradients are summed (`train/micro_batch.py`). 0: the whole batch.
    """

    classifier: Classifier
    optim: Optim
    epochs: int
    steps_per_epoch: int
    augment: Augment
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    start: Cut = IMAGE
    transform: Transform | None = None
    skip_nonfinite: bool = False
    mesh: Mesh | None = None
    micro_batch: int = 0

    @property
    def at_once(self) -> int:
        """Most images computed at once; 0: all, as from features on nothing is large."""
        return self.micro_batch if self.start < FEATURES else 0

    @property
    def num_devices(self) -> int:
        """Devices that share each batch."""
        return self.mesh.size if self.mesh else 1

    def optimizer(self, hyper: Hyper) -> optax.GradientTransformation:
        """Builds the optimizer for these hyperparameters."""
        return make_optimizer(self.optim, hyper, self.epochs, self.steps_per_epoch, self.transform)

    def init(self, trainable: Tree) -> TrainState:
        """Returns the state before the first step."""
        opt_state = self.optimizer(Hyper(0.0, 0.0, 0.0)).init(trainable)
        # A copy: the state is donated, and its average must not share buffers with the weights.
        ema = jax.tree.map(jnp.copy, trainable) if self.optim.ema_decay else {}
        return TrainState(jnp.zeros((), jnp.int32), trainable, opt_state, ema)

    def view(self, x: jax.Array) -> jax.Array:
        """Maps stored data to what the model takes, without augmentation."""
        if not self.start.at_image:
            return x
        return to_model(centre(x, self.image_size), self.mean, self.std)

    def weights(self, state: TrainState) -> Tree:
        """Returns the tree to evaluate: the average where one is kept, else the last weights."""
        return state.ema if self.optim.ema_decay else state.trainable

    def logits(self, trainable: Tree, frozen: Tree, x: jax.Array) -> jax.Array:
        """Computes evaluation logits [B, K].

        Args:
          trainable: what trains.
          frozen: the rest.
          x: images [B, S, S, 3], uint8 or floats in [0, 1]; from the cut on, what is stored there.

        Raises:
          ValueError: images of another shape, dtype or range.
        """
        params = merge(trainable, frozen)
        if self.start.at_image:
            check_images(_parts(x)[0])

        def forward(part: Any) -> jax.Array:
            x, raw = _parts(part)
            with in_context(self.mesh):
                return self.classifier.apply(params, self.view(x), start=self.start, raw=raw)

        return self.in_parts(forward, x)

    def in_parts(self, function: Callable[[Any], jax.Array], x: Any) -> jax.Array:
        """Applies a function of single images to a batch, as many at once as in training."""
        return map_parts(function, x, self.at_once, self.num_devices)

    def step(
        self,
        state: TrainState,
        frozen: Tree,
        x: jax.Array,
        labels: jax.Array,
        weights: jax.Array,
        hyper: Hyper,
        key: jax.Array,
        length: jax.Array | None = None,
        axis: str | None = None,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Takes one step.

        Args:
          state: the state before.
          frozen: the frozen tree.
          x: stored data of the batch: uint8 images [B, S, S, 3], `WithRaw`, or cached activations.
          labels: [B] int32.
          weights: [B] float32, 1 for a real example and 0 for padding.
          hyper: learning rate and weight decays.
          key: the run's key; the step's own is folded from it and the step number.
          length: the number of prompts that count, int32, where the tree may hold more.
          axis: name of a mapped axis over which the batch is split (`compiled.pmap_step`); the
            other arguments then are this device's part, and the result that of the whole batch.

        Returns:
          The state after, and float32 scalars: {'loss', 'correct', 'count', 'grad_norm'}, those of
          `Tuner.diagnose`, and 'critical_share' under robust training. A skipped step has count 0.
        """
        x, labels, weights = (shard_batch(a, self.mesh) for a in (x, labels, weights))
        x, raw = _parts(x)
        keys = jax.random.split(jax.random.fold_in(key, state.step), 2)
        total, first = jnp.sum(weights), jnp.int32(0)
        if axis is not None:
            total, place = jax.lax.psum(total, axis), jax.lax.axis_index(axis)
            first = place * len(labels)
            keys = keys.at[1].set(jax.random.fold_in(keys[1], place))
        if self.start.at_image:
            x = augment(keys[0], x, self.image_size, self.augment, first)
            x = to_model(x, self.mean, self.std)
        loss_fn = partial(self.loss, frozen=with_length(frozen, length), total=total)
        gradient = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
        gradient = partial(gradient, state.trainable)
        probes, part = self.classifier.tuner.probes(len(labels)), BatchPart(x, raw, labels, weights)
        (loss, correct), (grads, seen) = in_parts(
            gradient, probes, part, keys[1], self.at_once, self.num_devices
        )
        if axis is not None:
            loss, correct, grads = jax.lax.psum((loss, correct, grads), axis)
            seen, weights = jax.lax.all_gather((seen, weights), axis, tiled=True)
        after, metrics = self._update(state, grads, hyper)
        metrics |= {'loss': loss, 'correct': correct, 'count': total}
        metrics |= self.classifier.tuner.diagnose(seen, weights)
        after = after._replace(step=state.step + 1)
        return self._skip(state, after, metrics) if self.skip_nonfinite else (after, metrics)

    def loss(
        self,
        trainable: Tree,
        probes: Tree,
        part: BatchPart,
        key: jax.Array,
        *,
        frozen: Tree,
        total: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """Computes what a training step minimises, for a part of its batch.

        Args:
          trainable: what trains.
          probes: zero arrays whose gradients are what the tuner reports (`Tuner.probes`).
          part: what the model takes, and labels and weights.
          key: random key of dropout and drop path.
          frozen: the rest.
          total: sum of the weights of the whole batch.

        Returns:
          The part's share of the mean loss, and its weighted number of correct images.
        """
        with in_context(self.mesh):
            logits = self.classifier.apply(
                merge(trainable, frozen),
                part.x,
                start=self.start,
                key=key,
                train=True,
                raw=part.raw,
                probes=probes,
            )
            losses = cross_entropy(logits, part.labels, self.optim.label_smoothing)
        return share_of(part, losses, logits, total)

    def _update(
        self, state: TrainState, grads: Tree, hyper: Hyper
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Returns the state after a step with these gradients, but for its number, and metrics."""
        updates, opt_state = self.optimizer(hyper).update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        ema = state.ema
        if self.optim.ema_decay:
            ema = optax.incremental_update(trainable, ema, 1.0 - self.optim.ema_decay)
        metrics = {'grad_norm': optax.tree.norm(weight_gradients(grads))}
        share = optax.tree.get(opt_state, 'critical_share')
        if share is not None:
            metrics['critical_share'] = share
        return TrainState(state.step, trainable, opt_state, ema), metrics

    def _skip(
        self, before: TrainState, after: TrainState, metrics: dict[str, jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Takes back a step that is not finite; its metrics count nothing."""
        fine = jnp.isfinite(metrics['loss']) & jnp.isfinite(metrics['grad_norm'])
        kept = jax.tree.map(lambda new, old: jnp.where(fine, new, old), after, before)
        metrics = {name: jnp.where(fine, value, 0.0) for name, value in metrics.items()}
        return kept._replace(step=after.step), metrics


def share_of(
    part: BatchPart, losses: jax.Array, logits: jax.Array, total: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns a part's share of the mean loss, and its weighted number of correct images.

    Args:
      part: of the batch.
      losses: of its images, [B] float32.
      logits: [B, K].
      total: sum of the weights of the whole batch.
    """
    hits = (jnp.argmax(logits, axis=-1) == part.labels).astype(jnp.float32)
    loss = jnp.sum(losses * part.weights) / jnp.maximum(total, 1.0)
    return loss, jnp.sum(hits * part.weights)


def with_length(frozen: Tree, length: jax.Array | None) -> Tree:
    """Returns the frozen tree with a member's number of prompts where its tuner looks for it."""
    return frozen if length is None else merge(frozen, {'tuner': {'shared': {'length': length}}})


def _parts(x: Any) -> tuple[Any, Any]:
    return (x.images, x.raw) if isinstance(x, WithRaw) else (x, None)


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Returns the cross-entropy of each row, [B] float32, from logits [B, K] and labels [B]."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    own = jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]
    return -(1.0 - smoothing) * own - smoothing * jnp.mean(log_probs, axis=-1)
