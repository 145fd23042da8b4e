"""S trainings as one program: what it takes, its steps and its logits.

`vmap` maps over what trains and over the hyperparameters. Frozen weights and images are not mapped,
so they are there once. Members may have unlike numbers of prompts (`lengths.py`).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.core.tree import Tree
from jax_prompt.search.padding import cut, lengthened, obstacle, padded, with_length
from jax_prompt.train.job import Data, Job
from jax_prompt.train.mesh import replicate, shard_batch, unite
from jax_prompt.train.optim import Hyper
from jax_prompt.train.order import device_calls, epoch_order
from jax_prompt.train.step import TrainState

# The step number is the members' own but the same for all: as one scalar it keeps what depends on
# it alone (augmentation of a shared batch) out of the mapped part.
_MAPPED = TrainState(None, 0, 0, 0)  # type: ignore[arg-type]


def _step(program, state, frozen, x, labels, weights, hyper, key, lengths):
    """Takes a step of every member; a batch of labels [S, B] is each member's own."""
    own = 0 if labels.ndim == 2 else None

    def one(state, x, labels, hyper, key, length):
        batch = [shard_batch(a, program.mesh) for a in (x, labels, weights)]
        return program.step(state, with_length(frozen, length), *batch, hyper, key)

    axes = (_MAPPED, own, own, 0, 0 if key.ndim else None, 0)
    mapped = jax.vmap(one, axes, (_MAPPED, 0))
    return unite(mapped(state, x, labels, hyper, key, lengths), program.mesh)


@partial(jax.jit, static_argnames='program', donate_argnames='state')
def population_steps(program, state, frozen, data, labels, rows, weights, hyper, key, lengths=None):
    """Takes steps of S members as one program; see `step.make_steps`.

    Args:
      program: the `Program`, the same for all.
      state: leaves [S, ...], but one `step` for all; donated.
      frozen: the frozen tree.
      data: stored data on the device, leaves [n, ...].
      labels: [n] int32.
      rows: indices into data, [steps, B] int32 for all, or [steps, S, B].
      weights: [steps, B] float32.
      hyper: leaves [S].
      key: the members' key, or [S].
      lengths: the members' numbers of prompts, [S] int32, where these differ.

    Returns:
      The state after, and metrics with leaves [steps, S].
    """

    def body(state, row):
        index, weight = row
        x = jax.tree.map(lambda leaf: leaf[index], data)
        return _step(program, state, frozen, x, labels[index], weight, hyper, key, lengths)

    return jax.lax.scan(body, state, (rows, weights))


@partial(jax.jit, static_argnames='program', donate_argnames='state')
def population_step(program, state, frozen, x, labels, weights, hyper, key, lengths=None):
    """Takes one step of S members on a batch from the host, [B, ...] for all or [S, B, ...]."""
    return _step(program, state, frozen, x, labels, weights, hyper, key, lengths)


@partial(jax.jit, static_argnames='program')
def population_logits(program, trainable, frozen, x, lengths=None):
    """Computes evaluation logits [B, S, K] of stored data x for trainables [S, ...]."""
    count = len(jax.tree.leaves(x)[0])
    x = shard_batch(x, program.mesh)

    def one(own, length):
        return program.logits(own, with_length(frozen, length), x)

    logits = jax.vmap(one, out_axes=1)(trainable, lengths)
    return unite(logits, program.mesh)[:count]


def stack_states(states: Sequence[TrainState]) -> TrainState:
    """Stacks members' states, [S, ...]; the step is the first one's."""
    stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *states)
    return stacked._replace(step=jnp.asarray(states[0].step))


def member_of(tree: Any, index: int) -> Any:
    """Returns a member's part of a stacked tree, numpy."""
    return jax.tree.map(lambda leaf: np.array(np.asarray(leaf)[index]), tree)


class Members:
    """What the program of a population takes: data once, what is the members' own stacked.

    Args:
      jobs: the members.
      trainables: the initial trainable tree of each.
      frozen: the frozen tree, on the device.

    Raises:
      ValueError: jobs that differ in more than name, directory, hyper and seed, or in prompts
        where they can't share a program.
    """

    def __init__(self, jobs: Sequence[Job], trainables: Sequence[Tree], frozen: Tree):
        self.jobs, self.job, self.frozen = jobs, jobs[0], frozen
        lengths = [job.program.classifier.tuner.prompt_length for job in jobs]
        longest = lengths.index(max(lengths))
        self.program = jobs[longest].program
        mixed = len(set(lengths)) > 1
        if mixed and (reason := obstacle([job.program for job in jobs])):
            raise ValueError(
                f'{lengths} prompts, and {reason}; train each number in a population of its own'
            )
        alike = [replace(s, program=lengthened(s.program, self.program)) for s in jobs]
        for job in alike[1:]:
            _check_alike(alike[0], job)
        # Of each member's own length; `put` fills them up to the longest.
        pairs = zip(jobs, trainables, strict=True)
        self.initial = [job.program.init(tree) for job, tree in pairs]
        self._longest = self.initial[longest]
        keys = [jax.random.split(jax.random.key(job.seed)) for job in jobs]
        # Members of one seed share order, augmentation and dropout.
        self.shared = len({job.seed for job in jobs}) == 1
        self.order_keys = [key[0] for key in keys[: 1 if self.shared else None]]
        self.resident = not hasattr(self.job.train.data, 'batches')
        put = partial(replicate, mesh=self.program.mesh)
        self.key = put(keys[0][1] if self.shared else jnp.stack([key[1] for key in keys]))
        self.data: Any = put(self.job.train.data) if self.resident else self.job.train.data
        self.labels = put(np.asarray(self.job.train.labels, np.int32))
        columns = zip(*(job.hyper for job in jobs), strict=True)
        self.hyper: Hyper = put(Hyper(*(jnp.asarray(column, jnp.float32) for column in columns)))
        self.lengths = put(jnp.asarray(lengths, jnp.int32)) if mixed else None

    def put(self, states: Sequence[TrainState]) -> TrainState:
        """Returns states of all members as the program takes them."""
        like = self._longest
        return replicate(stack_states([padded(s, like) for s in states]), self.program.mesh)

    def state(self, states: TrainState, index: int) -> TrainState:
        """Returns a member's state, numpy, with its own number of prompts."""
        own = TrainState(states.step, *member_of(tuple(states[1:]), index))
        return cut(own, self.initial[index])

    def weights(self, weights: Tree, index: int) -> Tree:
        """Returns a member's part of the weights to evaluate, likewise."""
        return cut(member_of(weights, index), self.program.weights(self.initial[index]))

    def logits(self, trainable: Tree, frozen: Tree, x: jax.Array) -> jax.Array:
        """Computes evaluation logits [B, S, K] of stored data x; see `population_logits`."""
        return population_logits(self.program, trainable, frozen, x, self.lengths)

    @property
    def own(self) -> tuple[Any, ...]:
        """What a step takes of the members after the batch."""
        return (self.hyper, self.key, self.lengths)

    def order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns an epoch's index rows, [steps, B] or [steps, S, B], and weights [steps, B]."""
        count, size = len(self.job.train.labels), self.job.batch_size
        steps = self.program.steps_per_epoch
        orders = [epoch_order(key, epoch, count, size, steps) for key in self.order_keys]
        rows = orders[0][0] if self.shared else np.stack([one[0] for one in orders], axis=1)
        return rows, orders[0][1]

    def steps(
        self, state: TrainState, rows: np.ndarray, weights: np.ndarray
    ) -> tuple[TrainState, dict[str, np.ndarray]]:
        """Takes a step for each row; the metrics have leaves [steps, S]."""
        if self.resident:
            args = (self.frozen, self.data, self.labels, rows, weights, *self.own)
            state, metrics = population_steps(self.program, state, *args)
            return state, {name: np.asarray(value) for name, value in metrics.items()}
        history: list[dict[str, jax.Array]] = []
        for weight, (x, y) in zip(weights, self.batches(rows), strict=True):
            args = (self.frozen, x, y, weight, *self.own)
            state, metrics = population_step(self.program, state, *args)
            history.append(metrics)
        return state, {k: np.stack([np.asarray(m[k]) for m in history]) for k in history[0]}

    def batches(self, rows: np.ndarray):
        """Yields data [B, ...] and labels [B] of each row, or [S, B, ...] and [S, B]."""
        if self.resident:
            for row in rows:
                yield jax.tree.map(lambda leaf, row=row: leaf[row], self.data), self.labels[row]
            return
        shape = rows.shape[1:]
        for x, y in self.data.batches(rows.reshape(len(rows), -1)):
            yield x.reshape(*shape, *x.shape[1:]), y.reshape(shape)

    def compiled(self) -> Any:
        """Returns the compiled program of the first device call, which that call then finds."""
        rows, weights = self.order(0)
        before = (self.program, self.put(self.initial), self.frozen)
        if self.resident:
            _, stop = device_calls(len(rows), self.job.steps_per_call)[0]
            own = (self.data, self.labels, rows[:stop], weights[:stop])
            return population_steps.lower(*before, *own, *self.own).compile()
        batch = next(self.batches(rows[:1]))
        return population_step.lower(*before, *batch, weights[0], *self.own).compile()


def _check_alike(first: Job, other: Job) -> None:
    """Raises ValueError where two jobs can't be members of one population."""
    own = ('name', 'directory', 'hyper', 'seed', 'after')

    def same(a: Any, b: Any) -> bool:
        return a is b or (not isinstance(a, Data) and a == b)

    names = [name for name in Job.__dataclass_fields__ if name not in own]
    differs = [n for n in names if not same(getattr(first, n), getattr(other, n))]
    if differs:
        raise ValueError(
            f'stages {first.name} and {other.name} differ in {differs}; allowed: {list(own)}. '
            'Train them in populations of their own'
        )
