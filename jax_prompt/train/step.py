"""One training step, of one training or of S side by side.

A step starts from images or from cached activations (the frozen prefix is skipped). Gradients exist
for the trainable tree only; the frozen tree is an argument like the images.

The same step serves a set that lies on the device (an epoch is a `lax.scan` over index rows) and a
streamed one (batches come from the host). S members of a population take their steps in one
program: the step under `vmap`, mapped over what trains and over the hyperparameters. Frozen weights
and images are not mapped, so they are there once. A training alone is not mapped.

`jit` with shardings is what the engine runs. `pmap_step` is there for programs that are built on
`pmap`; it can't split frozen weights.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_prompt.core.tree import Tree, merge
from jax_prompt.data.transforms import augment, to_model
from jax_prompt.train.mesh import in_context, shard_batch, unite
from jax_prompt.train.micro_batch import BatchPart, in_parts, number_of_parts
from jax_prompt.train.optim import Hyper, weight_gradients
from jax_prompt.train.program import Program, TrainState, split_raw, with_length

# The step number is the members' own but the same for all: as one scalar it keeps what depends on
# it alone (augmentation of a shared batch) out of the mapped part.
_MAPPED = TrainState(None, 0, 0, 0)  # type: ignore[arg-type]
_DEVICES = 'devices'


@partial(jax.jit, static_argnames='program', donate_argnames='state')
def make_steps(program, state, frozen, data, labels, rows, weights, hyper, key, lengths=None):
    """Takes one step for each row of indices, as one program.

    Args:
      program: the `Program`, the same for all members.
      state: the state before; donated. Of S members leaves [S, ...], but one `step` for all.
      frozen: the frozen tree.
      data: stored data on the device, leaves [n, ...].
      labels: [n] int32.
      rows: indices into data, [steps, B] int32; [steps, S, B] where members differ in them.
      weights: [steps, B] float32.
      hyper: learning rate and weight decays; leaves [S] say that there are members.
      key: the run's key; [S] where members differ in it.
      lengths: the members' numbers of prompts, [S] int32, where they differ in them.

    Returns:
      The state after, and metrics with leaves [steps], or [steps, S].
    """

    def body(state, row):
        index, weight = row
        x = jax.tree.map(lambda leaf: leaf[index], data)
        after = step(state, frozen, x, labels[index], weight, hyper, key, lengths)
        return unite(after, program.mesh)

    step = _mapped(program, hyper, key, rows.ndim == 3)
    return jax.lax.scan(body, state, (rows, weights))


@partial(jax.jit, static_argnames='program', donate_argnames='state')
def make_step(program, state, frozen, x, labels, weights, hyper, key, lengths=None):
    """Takes one step on a batch from the host, [B, ...], or [S, B, ...] of each member's own."""
    step = _mapped(program, hyper, key, labels.ndim == 2)
    after = step(state, frozen, x, labels, weights, hyper, key, lengths)
    return unite(after, program.mesh)


def _mapped(program, hyper, key, own_batches):
    """Returns `take_step` of a program, mapped over the members where there are some.

    Args:
      program: the `Program`.
      hyper: as in `make_steps`.
      key: likewise.
      own_batches: whether each member has a batch of its own.
    """
    one = partial(take_step, program)
    if not jnp.ndim(hyper.lr):
        return one
    own = 0 if own_batches else None
    axes = (_MAPPED, None, own, own, None, 0, 0 if key.ndim else None, 0)
    return jax.vmap(one, axes, (_MAPPED, 0))


def take_step(
    program: Program,
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
    """Takes one step of one training.

    Args:
      program: what the step computes.
      state: the state before.
      frozen: the frozen tree.
      x: stored data of the batch: uint8 images [B, S, S, 3], `WithRaw`, or cached activations.
      labels: [B] int32.
      weights: [B] float32, 1 for a real example and 0 for padding.
      hyper: learning rate and weight decays.
      key: the run's key; the step's own is folded from it and the step number.
      length: the number of prompts that count, int32, where the tree may hold more.
      axis: name of a mapped axis over which the batch is split (`pmap_step`); the other
        arguments then are this device's part, and the result that of the whole batch.

    Returns:
      The state after, and float32 scalars: {'loss', 'correct', 'count', 'grad_norm'}, those of
      `Tuner.diagnose`, and 'critical_share' under robust training. A skipped step has count 0.
    """
    x, labels, weights = (shard_batch(a, program.mesh) for a in (x, labels, weights))
    x, raw = split_raw(x)
    keys = jax.random.split(jax.random.fold_in(key, state.step), 2)
    total, first = jnp.sum(weights), jnp.int32(0)
    if axis is not None:
        total, place = jax.lax.psum(total, axis), jax.lax.axis_index(axis)
        first = place * len(labels)
        keys = keys.at[1].set(jax.random.fold_in(keys[1], place))
    if program.start.at_image:
        x = augment(keys[0], x, program.image_size, program.augment, first)
        x = to_model(x, program.mean, program.std)
    loss_fn = partial(program.loss or label_loss, program, total=total)
    loss_fn = partial(loss_fn, frozen=with_length(frozen, length))
    gradient = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
    gradient = partial(gradient, state.trainable)
    probes, part = program.classifier.tuner.probes(len(labels)), BatchPart(x, raw, labels, weights)
    parts = number_of_parts(len(labels), program.at_once, program.num_devices)
    compute = partial(in_parts, gradient, parts) if parts > 1 else gradient
    (loss, correct), (grads, seen) = compute(probes, part, keys[1])
    if axis is not None:
        loss, correct, grads = jax.lax.psum((loss, correct, grads), axis)
        seen, weights = jax.lax.all_gather((seen, weights), axis, tiled=True)
    after, metrics = _update(program, state, grads, hyper)
    metrics |= {'loss': loss, 'correct': correct, 'count': total}
    metrics |= program.classifier.tuner.diagnose(seen, weights)
    after = after._replace(step=state.step + 1)
    return _skip(state, after, metrics) if program.skip_nonfinite else (after, metrics)


def label_loss(
    program: Program,
    trainable: Tree,
    probes: Tree,
    part: BatchPart,
    key: jax.Array,
    *,
    frozen: Tree,
    total: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Computes the loss of a part of a batch: the cross-entropy of its labels.

    Args:
      program: of the step.
      trainable: what trains.
      probes: zero arrays whose gradients are what the tuner reports (`Tuner.probes`).
      part: what the model takes, and labels and weights.
      key: random key of dropout and drop path.
      frozen: the rest.
      total: sum of the weights of the whole batch.

    Returns:
      The part's share of the mean loss, and its weighted number of correct images.
    """
    with in_context(program.mesh):
        logits = program.classifier.apply(
            merge(trainable, frozen),
            part.x,
            start=program.start,
            key=key,
            train=True,
            raw=part.raw,
            probes=probes,
        )
        losses = cross_entropy(logits, part.labels, program.optim.label_smoothing)
    return share_of(part, losses, logits, total)


def _update(
    program: Program, state: TrainState, grads: Tree, hyper: Hyper
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns the state after a step with these gradients, but for its number, and metrics."""
    updates, opt_state = program.optimizer(hyper).update(grads, state.opt_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    ema = state.ema
    if program.optim.ema_decay:
        ema = optax.incremental_update(trainable, ema, 1.0 - program.optim.ema_decay)
    metrics = {'grad_norm': optax.tree.norm(weight_gradients(grads))}
    share = optax.tree.get(opt_state, 'critical_share')
    if share is not None:
        metrics['critical_share'] = share
    return TrainState(state.step, trainable, opt_state, ema), metrics


def _skip(
    before: TrainState, after: TrainState, metrics: dict[str, jax.Array]
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


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Returns the cross-entropy of each row, [B] float32, from logits [B, K] and labels [B]."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    own = jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]
    return -(1.0 - smoothing) * own - smoothing * jnp.mean(log_probs, axis=-1)


def pmap_step(
    program: Program,
    state: TrainState,
    frozen: Tree,
    x: Any,
    labels: jax.Array,
    weights: jax.Array,
    hyper: Hyper,
    key: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one step under `pmap`, the batch split over all local devices.

    It comes to the state of `make_step`: each device computes the loss of its rows divided by the
    whole batch's weight, and losses and gradients are summed over the devices (`take_step`, its
    argument `axis`). Augmentation is drawn by an image's place in the whole batch, so it is the
    same too. Dropout and stochastic depth draw device by device, from other keys.

    Args:
      program: a program without a mesh.
      state: the state before.
      frozen: the frozen tree.
      x: as in `take_step`, like all that follows.
      labels: [B] int32.
      weights: [B] float32.
      hyper: learning rate and weight decays.
      key: the run's key.

    Returns:
      The state after, and the metrics of the whole batch.

    Raises:
      ValueError: a program with a mesh, a batch that the devices don't divide, or whose images
        depend on each other.
    """
    devices, size = jax.local_device_count(), len(labels)
    if program.mesh is not None:
        raise ValueError('pmap takes a program without a mesh; set mesh=None, or take make_step')
    if program.classifier.mixes_examples:
        raise ValueError(
            'images of a batch depend on each other here (batch norms of the batch, or prompts in '
            'windows of other images), and pmap computes each part of it alone; take make_step, '
            'which shares the whole batch over a mesh'
        )
    if size % devices:
        raise ValueError(f'a batch of {size} is no multiple of the {devices} devices; change it')

    def split(leaf: Any) -> Any:
        return jnp.reshape(leaf, (devices, size // devices, *np.shape(leaf)[1:]))

    batch = jax.tree.map(split, (x, labels, weights))
    return _pmapped(program)(state, frozen, *batch, hyper, key)


@cache
def _pmapped(program: Program) -> Any:
    def step(state, frozen, x, labels, weights, hyper, key):
        return take_step(program, state, frozen, x, labels, weights, hyper, key, axis=_DEVICES)

    return jax.pmap(step, _DEVICES, in_axes=(None, None, 0, 0, 0, None, None), out_axes=None)
