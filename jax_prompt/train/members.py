"""The members of a training: their data, the order of their examples, and their states.

A training alone has one member, and its program is not mapped. S trainings side by side are one
program, in which what is the members' own is stacked, [S, ...]. Members of one seed see the same
batches in the same order. Members may have unlike numbers of prompts: the program then has as many
as the longest, and states between device calls are filled up with zeros. What leaves the device, a
checkpoint or the best weights, has the member's own shapes (`search/padding.py` says when this is
exact).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.core.tree import Tree
from jax_prompt.data.stored import Streamed
from jax_prompt.evals.classify import forward
from jax_prompt.train.job import Data, Job
from jax_prompt.train.mesh import replicate
from jax_prompt.train.optim import Hyper
from jax_prompt.train.program import Program, TrainState, make_logits
from jax_prompt.train.step import make_step, make_steps


class Members:
    """What the program of a training takes: data once, what is the members' own stacked.

    Args:
      jobs: the members.
      program: the program of all, where their own differ in the number of prompts; None: their own.

    Raises:
      ValueError: jobs that differ in more than name, directory, initial tree, hyper and seed.
    """

    def __init__(self, jobs: Sequence[Job], program: Program | None = None):
        check_alike(jobs, but=('program',) if program else ())
        self.jobs, self.job, self.frozen = jobs, jobs[0], jobs[0].frozen
        self.program = program or self.job.program
        self.alone = len(jobs) == 1
        # The shapes of each member's state, of its own length; `put` fills up to the longest.
        self.like = [jax.eval_shape(job.program.init, job.trainable) for job in jobs]
        lengths = [job.program.classifier.facts.prompt_length for job in jobs]
        self.mixed = len(set(lengths)) > 1
        self._longest = self.like[lengths.index(max(lengths))]
        keys = [jax.random.split(jax.random.key(job.seed)) for job in jobs]
        # Members of one seed share order, augmentation and dropout.
        self.shared = len({job.seed for job in jobs}) == 1
        self.order_keys = [key[0] for key in keys[: 1 if self.shared else None]]
        self.resident = not isinstance(self.job.train.data, Streamed)
        put = partial(replicate, mesh=self.program.mesh)
        self.data: Any = put(self.job.train.data) if self.resident else self.job.train.data
        self.labels = put(np.asarray(self.job.train.labels, np.int32))
        # Arrays, not constants: every candidate of a search runs the same compiled program.
        columns = self.job.hyper if self.alone else zip(*(job.hyper for job in jobs), strict=True)
        hyper = put(Hyper(*(jnp.asarray(column, jnp.float32) for column in columns)))
        key = put(keys[0][1] if self.shared else jnp.stack([key[1] for key in keys]))
        # What a step takes of the members after the batch.
        self.own: tuple[Any, ...] = (hyper, key)
        self._options: dict[str, Any] = {}
        if not self.alone:
            length = put(jnp.asarray(lengths, jnp.int32)) if self.mixed else None
            self.own, self._options = (hyper, key, length), {'lengths': length, 'members': True}

    def initial(self) -> list[TrainState]:
        """Returns the members' states before the first step."""
        # Copies: states are donated, trainable trees are the caller's.
        return [job.program.init(jax.tree.map(jnp.copy, job.trainable)) for job in self.jobs]

    def put(self, states: Sequence[TrainState]) -> TrainState:
        """Returns states of all members as the program takes them, [S, ...]; the step is one."""
        state = states[0]
        if not self.alone:
            full = [padded(state, self._longest) for state in states]
            state = jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *full)
            state = state._replace(step=jnp.asarray(states[0].step))
        return replicate(state, self.program.mesh)

    def state(self, states: TrainState, index: int) -> TrainState:
        """Returns a member's state, with its own number of prompts; numpy of several members."""
        if self.alone:
            return states
        own = TrainState(states.step, *_part_of(tuple(states[1:]), index))
        return cut(own, self.like[index])

    def weights(self, states: TrainState, index: int) -> Tree:
        """Returns a member's weights to evaluate likewise, a tree of their own."""
        weights = self.program.weights(states)
        if self.alone:
            return jax.tree.map(jnp.copy, weights)
        return cut(_part_of(weights, index), self.program.weights(self.like[index]))

    def logits(self, states: TrainState) -> np.ndarray:
        """Computes the members' logits of the validation split, [S, n, K]."""
        assert self.job.val is not None
        logits = partial(make_logits, self.program, **self._options)
        data, size = self.job.val.data, self.job.engine.eval_batch_size
        out = forward(logits, self.program.weights(states), self.frozen, data, size)
        return out[None] if self.alone else np.moveaxis(out, 1, 0)

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
        """Takes a step for each row; the metrics have leaves [S, steps]."""
        if self.resident:
            args = (self.frozen, self.data, self.labels, rows, weights, *self.own)
            state, metrics = make_steps(self.program, state, *args)
            values = {name: np.asarray(value) for name, value in metrics.items()}
        else:
            history: list[dict[str, jax.Array]] = []
            for weight, (x, y) in zip(weights, self.batches(rows), strict=True):
                args = (self.frozen, x, y, weight, *self.own)
                state, metrics = make_step(self.program, state, *args)
                history.append(metrics)
            values = {k: np.stack([np.asarray(m[k]) for m in history]) for k in history[0]}
        return state, {name: v[None] if self.alone else v.T for name, v in values.items()}

    def batches(self, rows: np.ndarray) -> Iterator[tuple[Any, Any]]:
        """Yields data [B, ...] and labels [B] of each row, or [S, B, ...] and [S, B]."""
        if self.resident:
            for row in rows:
                yield jax.tree.map(lambda leaf, row=row: leaf[row], self.data), self.labels[row]
        elif self.shared:
            yield from self.data.batches(rows)
        else:
            shape = rows.shape[1:]
            for x, y in self.data.batches(rows.reshape(len(rows), -1)):
                yield x.reshape(*shape, *x.shape[1:]), y.reshape(shape)

    def first_step(self) -> Callable[..., Any]:
        """Returns (step, state) -> step(...): `make_step`, or its `lower`, on the first batch."""
        rows, weights = self.order(0)
        batch = next(self.batches(rows[:1]))
        return lambda step, state: step(
            self.program, state, self.frozen, *batch, weights[0], *self.own
        )

    def compiled(self) -> Any:
        """Returns the compiled program of the first device call, which that call then finds."""
        state = self.put(self.initial())
        if not self.resident:
            return self.first_step()(make_step.lower, state).compile()
        rows, weights = self.order(0)
        _, stop = device_calls(len(rows), self.job.engine.steps_per_call)[0]
        data = (self.frozen, self.data, self.labels, rows[:stop], weights[:stop])
        return make_steps.lower(self.program, state, *data, *self.own).compile()


def check_alike(jobs: Sequence[Job], but: Sequence[str] = ()) -> None:
    """Raises ValueError where jobs can't be members of one training; `but`: what may differ."""
    own = ('name', 'directory', 'trainable', 'hyper', 'seed', 'after')

    def same(a: Any, b: Any) -> bool:
        if not isinstance(a, Data | dict):
            return a == b
        pairs = itertools.zip_longest(jax.tree.leaves(a), jax.tree.leaves(b))
        return all(one is other for one, other in pairs)

    names = [name for name in Job.__dataclass_fields__ if name not in (*own, *but)]
    first = jobs[0]
    for other in jobs[1:]:
        differs = [n for n in names if not same(getattr(first, n), getattr(other, n))]
        if differs:
            raise ValueError(
                f'stages {first.name} and {other.name} differ in {differs}; allowed: {list(own)}. '
                'Train them in populations of their own'
            )


def padded(tree: Any, like: Any) -> Any:
    """Fills leaves up with zeros at the ends of their axes, to the shapes of those of `like`."""

    def pad(leaf: Any, model: Any) -> Any:
        missing = [(0, m - n) for n, m in zip(np.shape(leaf), np.shape(model), strict=True)]
        return np.pad(np.asarray(leaf), missing) if any(m for _, m in missing) else leaf

    return jax.tree.map(pad, tree, like)


def cut(tree: Any, like: Any) -> Any:
    """Cuts leaves to the shapes of those of `like`: the inverse of `padded`."""

    def own(leaf: Any, model: Any) -> Any:
        same = np.shape(leaf) == np.shape(model)
        return leaf if same else leaf[tuple(map(slice, np.shape(model)))].copy()

    return jax.tree.map(own, tree, like)


def _part_of(tree: Any, index: int) -> Any:
    """Returns a member's part of a stacked tree, numpy."""
    return jax.tree.map(lambda leaf: np.array(np.asarray(leaf)[index]), tree)


def num_steps(count: int, batch_size: int, drop_last: bool) -> int:
    """Returns the steps of an epoch of `count` images.

    Args:
      count: images of an epoch.
      batch_size: images a step.
      drop_last: whether a short last batch is left out.

    Raises:
      ValueError: nothing would be left.
    """
    if not drop_last:
        return math.ceil(count / batch_size)
    if count < batch_size:
        raise ValueError(
            f'drop_last leaves out a short batch, and {count} training images are fewer than '
            f'batch_size {batch_size}; set drop_last=False or a smaller batch_size'
        )
    return count // batch_size


def epoch_order(
    key: jax.Array, epoch: int, count: int, batch_size: int, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the shuffled index rows [steps, B] int32 and weights [steps, B] float32 of an epoch.

    Each example comes once; the last row is filled up with the epoch's first, once more, at weight
    0. They count for nothing, but are images like any: what is taken over the whole batch (batch
    norms in `full`) sees a fair sample of the set. With fewer steps than that takes (`num_steps`),
    the last of the shuffled examples are left out of this epoch.
    """
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), count), np.int32)
    order = order[: steps * batch_size]
    fill = steps * batch_size - len(order)
    rows = np.concatenate([order, np.resize(order, fill)]).reshape(steps, batch_size)
    weights = np.concatenate([np.ones(len(order), np.float32), np.zeros(fill, np.float32)])
    return rows, weights.reshape(steps, batch_size)


def device_calls(steps: int, most: int, done: int = 0) -> list[tuple[int, int]]:
    """Splits what is left of an epoch of `steps` into device calls (first step, stop)."""
    length = math.ceil(steps / math.ceil(steps / most))
    return [(i, min(i + length, steps)) for i in range(done, steps, length)]


def images_done(step: int, steps: int, batch_size: int, count: int) -> int:
    """Returns the images that `step` steps have seen; the last batch of an epoch may be smaller.

    Args:
      step: steps done, over all epochs.
      steps: of an epoch.
      batch_size: images a step.
      count: images of an epoch.

    >>> [images_done(step, 3, 4, 10) for step in (0, 2, 3, 4, 6)]
    [0, 8, 10, 14, 20]
    """
    epoch, inside = divmod(step, steps)
    return epoch * count + min(inside * batch_size, count)
