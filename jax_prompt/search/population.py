"""A population: trainings side by side, one program by `vmap` over what trains.

S members differ in learning rate, weight decays, seed and number of prompts (`lengths.py`). Frozen
weights and images are arguments that `vmap` does not map, so they are there once; members of one
seed see the same batches in the same order, and what comes before the first trained parameter is
computed once for all. Nothing in a step crosses from member to member: a member's result is that of
its own solo run, and one that diverges takes its NaN along to the end while the others go on.

Each member keeps the record of its own job: rows in metrics.jsonl, and checkpoints that a solo
run could go on from. A killed population goes on from the latest step that all of its members have
saved, and ends with the same bits.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from jax_prompt.core.tree import Tree
from jax_prompt.evals.classify import forward, score
from jax_prompt.search.members import Members
from jax_prompt.train.checkpoint import DamagedCheckpoint
from jax_prompt.train.job import Fit, Job, NonFiniteLoss, Unconverged
from jax_prompt.train.log import Progress
from jax_prompt.train.loop import Ledger
from jax_prompt.train.mesh import replicate
from jax_prompt.train.order import device_calls, images_done
from jax_prompt.train.snapshots import take_snapshot
from jax_prompt.train.step import TrainState
from jax_prompt.train.stopping import after_the_call, stop_if_asked


@dataclass
class Outcome:
    """How a member ended.

    Attributes:
      fit: what it gave; None where it failed.
      status: 'done', or why it failed.
      seconds: its share of the population's time, over all resumptions.
    """

    fit: Fit | None
    status: str
    seconds: float


def fit_population(
    jobs: Sequence[Job],
    trainables: Sequence[Tree],
    frozen: Tree,
    skip: Sequence[int] = (),
    on_failure: Callable[[int, Outcome], None] | None = None,
) -> list[Outcome | None]:
    """Trains jobs side by side from the last checkpoint that they share, or from the start.

    Args:
      jobs: the members; they may differ in name, directory, hyper and seed only, and in the
        number of prompts where these can be masked.
      trainables: the initial trainable tree of each.
      frozen: the frozen tree, on the device.
      skip: members whose outcome is known from before. Their place in the program stays, so that a
        population that goes on computes the same bits, but nothing is recorded of them.
      on_failure: called with a member that failed, at once: it has to be remembered and skipped
        when a killed population goes on.

    Returns:
      The outcome of each member, None for those skipped.

    Raises:
      ValueError: jobs that differ in more.
    """
    population = _Population(jobs, trainables, frozen, skip)
    population.on_failure = on_failure
    try:
        population.resume()
        with after_the_call():
            population.run()
    finally:
        for record in population.records.values():
            record.checkpoints.close()
    return population.outcomes()


class _Population:
    """The members' states, stacked, between device calls; what is kept of each is its record."""

    def __init__(
        self,
        jobs: Sequence[Job],
        trainables: Sequence[Tree],
        frozen: Tree,
        skip: Sequence[int],
    ):
        self.members = Members(jobs, trainables, frozen)
        self.jobs, self.job, self.frozen = jobs, jobs[0], frozen
        self.program = self.members.program
        living = [i for i in range(len(jobs)) if i not in skip]
        self.records = {i: Ledger(jobs[i], trainables[i]) for i in living}
        self.failed: dict[int, Outcome] = {}
        self.on_failure: Callable[[int, Outcome], None] | None = None
        self.saved = time.perf_counter()

    @property
    def living(self) -> dict[int, Ledger]:
        """The records of members that train."""
        return {i: record for i, record in self.records.items() if i not in self.failed}

    def resume(self) -> None:
        """Continues from the latest checkpoint that every member has whole, if there is one."""
        states, saved = list(self.members.initial), dict[int, Any]()
        while True:
            steps = [set(record.checkpoints.steps()) for record in self.records.values()]
            step = max(set.intersection(*steps), default=None) if steps else None
            if step is None:
                break
            try:
                saved = {
                    i: record.checkpoints.restore_or_put_aside(
                        record.like(states[i]), step, quiet=self.job.quiet
                    )
                    for i, record in self.records.items()
                }
                break
            except DamagedCheckpoint:
                continue
        for i, record in self.records.items():
            states[i] = record.restore(states[i], step, saved.get(i))
        # Those whose place alone is kept step along.
        number = states[next(iter(self.records), 0)].step
        self.state = self.members.put([state._replace(step=number) for state in states])

    def run(self) -> None:
        """Trains to the stages' last epoch, as long as a member lives."""
        job, steps = self.job, self.program.steps_per_epoch
        step, total = int(self.state.step), len(job.train.labels)
        name = f'{job.name} and {len(self.jobs) - 1} more'
        images = len(self.jobs) * job.last_epoch * total
        progress = Progress(name, images, job.quiet, min(s.after for s in self.jobs))
        progress.start(len(self.jobs) * images_done(step, steps, job.batch_size, total))
        self._snapshots()
        if not self.living:
            return
        for epoch in range(step // steps, job.last_epoch):
            rows, weights = self.members.order(epoch)
            done = int(self.state.step) - epoch * steps
            for first, stop in device_calls(steps, job.steps_per_call, done):
                stop_if_asked(name, int(self.state.step), self._save)
                self._call(rows[first:stop], weights[first:stop])
                progress.update(len(self.jobs) * int(weights[first:stop].sum()))
                if stop == steps:
                    self._snapshots()
                    progress.note(self._end_epoch(epoch + 1))
                last = stop == steps and epoch + 1 == job.last_epoch
                if last or time.perf_counter() - self.saved > job.checkpoint_seconds:
                    self._save()
                if not self.living:
                    progress.close()
                    return
        progress.close()

    def _call(self, rows: np.ndarray, weights: np.ndarray) -> None:
        started = time.perf_counter()
        self.state, values = self.members.steps(self.state, rows, weights)
        share = (time.perf_counter() - started) / len(self.living)
        stop = int(self.state.step)
        for i, record in self.living.items():
            own = {name: value[:, i] for name, value in values.items()}
            self._guard(i, partial(record.add, own, share, stop))

    def _guard(self, index: int, act: Any) -> Any:
        """Runs what concerns one member; its failure is its own."""
        try:
            return act()
        except (NonFiniteLoss, Unconverged) as error:
            seconds = self.records[index].info['seconds']
            self.failed[index] = Outcome(None, str(error), seconds)
            if not self.job.quiet:
                print(error, flush=True)
            if self.on_failure:
                self.on_failure(index, self.failed[index])
            return None

    def _end_epoch(self, epoch: int) -> str:
        """Validates where due, writes the members' rows, and returns a line for the terminal."""
        living, job, step = self.living, self.job, int(self.state.step)
        if not living:
            return 'no member trains any longer'
        weights, got = self.program.weights(self.state), {}
        if job.val is not None and next(iter(living.values())).due(epoch):
            started = time.perf_counter()
            logits_of, (data, labels) = self.members.logits, job.val
            logits = forward(logits_of, weights, self.frozen, data, job.eval_batch_size)
            for i, record in living.items():
                own_score = partial(score, logits[:, i], labels)  # of [n, S, K]
                got[i] = self._guard(i, partial(record.validate, epoch, own_score))
            living = self.living
            for record in living.values():
                record.info['seconds'] += (time.perf_counter() - started) / len(living)
        rows = []
        for i, record in living.items():
            own = partial(self.members.weights, weights, i)
            row = self._guard(i, partial(record.end_epoch, epoch, step, got.get(i), own))
            if row is not None:
                rows.append(row)
                save = partial(self._save_member, i)
                self._guard(i, partial(record.watch, row, save))
        return f'epoch {epoch}/{self.program.epochs}' + _spread(rows)

    def _state_of(self, index: int) -> TrainState:
        return self.members.state(self.state, index)

    def _save_member(self, index: int) -> None:
        self.records[index].save(self._state_of(index))

    def _save(self) -> None:
        for i in self.living:
            self._guard(i, partial(self._save_member, i))
        self.saved = time.perf_counter()

    def _snapshots(self) -> None:
        for i in self.living if self.job.snapshot_every else ():
            take_snapshot(
                self.jobs[i].directory,
                self.job.snapshot_every,
                self.program,
                self._state_of(i),
            )

    def outcomes(self) -> list[Outcome | None]:
        """Returns how each member ended, None for those skipped."""
        out: list[Outcome | None] = [self.failed.get(i) for i in range(len(self.jobs))]
        weights = self.program.weights(self.state)
        for i, record in self.living.items():
            own = replicate(self.members.weights(weights, i), self.program.mesh)
            record.best = replicate(record.best, self.program.mesh)
            done = record.result(own)
            out[i] = Outcome(done, 'done', done.seconds)
        return out


def _spread(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the members' losses and accuracies as ranges."""
    losses = [row['loss'] for row in rows]
    vals = [100 * row['val_accuracy'] for row in rows if row['val_accuracy'] is not None]
    text = f' loss {min(losses):.4f} to {max(losses):.4f}' if losses else ''
    return text + (f' val {min(vals):.2f} to {max(vals):.2f}%' if vals else '')
