"""The programs that a device runs: steps and logits of one training, or of S side by side.

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

from jax_prompt.core.tree import Tree
from jax_prompt.train.mesh import shard_batch, unite
from jax_prompt.train.optim import Hyper
from jax_prompt.train.step import Program, TrainState, with_length

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
    """Returns `program.step`, mapped over the members where there are some.

    Args:
      program: the `Program`.
      hyper: as in `make_steps`.
      key: likewise.
      own_batches: whether each member has a batch of its own.
    """
    if not jnp.ndim(hyper.lr):
        return program.step
    own = 0 if own_batches else None
    axes = (_MAPPED, None, own, own, None, 0, 0 if key.ndim else None, 0)
    return jax.vmap(program.step, axes, (_MAPPED, 0))


@partial(jax.jit, static_argnames=('program', 'members'))
def make_logits(program, trainable, frozen, x, lengths=None, members=False):
    """Computes `Program.logits`; jobs with equal programs share the compiled code.

    Args:
      program: the `Program`.
      trainable: what trains; leaves [S, ...] of members.
      frozen: the frozen tree.
      x: stored data, leaves [B, ...].
      lengths: as in `make_steps`.
      members: whether there are members.

    Returns:
      [B, K], or [B, S, K].
    """
    count = len(jax.tree.leaves(x)[0])
    x = shard_batch(x, program.mesh)

    def one(own, length):
        return program.logits(own, with_length(frozen, length), x)

    logits = (jax.vmap(one, out_axes=1) if members else one)(trainable, lengths)
    return unite(logits, program.mesh)[:count]


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
    whole batch's weight, and losses and gradients are summed over the devices (`Program.step`, its
    argument `axis`). Augmentation is drawn by an image's place in the whole batch, so it is the
    same too. Dropout and stochastic depth draw device by device, from other keys.

    Args:
      program: a program without a mesh.
      state: the state before.
      frozen: the frozen tree.
      x: as in `Program.step`, like all that follows.
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
        return program.step(state, frozen, x, labels, weights, hyper, key, axis=_DEVICES)

    return jax.pmap(step, _DEVICES, in_axes=(None, None, 0, 0, 0, None, None), out_axes=None)
