"""The training loop: epochs on the device, checkpoints, metrics, resumption.

A training is a list of members. One alone runs its own program; several run side by side as one
program (`members.py`) and differ in learning rate, weight decays, seed and number of prompts.
Nothing in a step crosses from member to member: a member's result is that of its own solo run, and
one that diverges takes its NaN along to the end while the others go on.

Each member keeps a ledger of its own: rows in metrics.jsonl, and checkpoints that a solo run could
go on from. Everything random is a function of the run's key, the epoch and the step. So a killed
training goes on from the latest step that all of its members have saved, takes the same steps, and
ends with the same bits.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from jax_prompt.evals.classify import Evaluation
from jax_prompt.train.checkpoint import DamagedCheckpoint, Saved
from jax_prompt.train.job import Fit, Job, NonFiniteLoss, Outcome, Unconverged
from jax_prompt.train.ledger import Ledger
from jax_prompt.train.log import Progress
from jax_prompt.train.members import Members, device_calls, images_done
from jax_prompt.train.mesh import replicate
from jax_prompt.train.snapshots import take_snapshot
from jax_prompt.train.stopping import after_the_call, stop_if_asked


def fit(job: Job) -> Fit:
    """Trains a job from its last checkpoint, or from the start.

    Raises:
      NonFiniteLoss: names the step; what was saved before stays.
      Unconverged: too few inner solves converged, and the job is to stop there.
    """
    (outcome,) = fit_members(Members([job]))
    assert outcome is not None
    if outcome.fit is None:
        assert outcome.error is not None
        raise outcome.error
    return outcome.fit


def fit_members(
    members: Members,
    skip: Sequence[int] = (),
    on_failure: Callable[[int, Outcome], None] | None = None,
) -> list[Outcome | None]:
    """Trains members side by side from the last checkpoint that they share, or from the start.

    Args:
      members: what to train.
      skip: members whose outcome is known from before. They keep their slot, so that a training
        that goes on computes the same bits, but nothing is recorded of them.
      on_failure: called with a member that failed, at once: it has to be remembered and skipped
        when a killed training goes on.

    Returns:
      The outcome of each member, None for those skipped.
    """
    training = _Training(members, skip, on_failure)
    try:
        training.resume()
        with after_the_call():
            for rows, weights, epoch in training.calls():
                started = time.perf_counter()
                training.state, values = members.steps(training.state, rows, weights)
                training.note(values, time.perf_counter() - started, int(weights.sum()))
                if epoch:
                    training.end_epoch(epoch)
                training.save_where_due(epoch)
    finally:
        for ledger in training.ledgers.values():
            ledger.checkpoints.close()
    training.progress.close()
    return training.outcomes()


class _Training:
    """The members' states between device calls; what is kept of each is its ledger."""

    def __init__(
        self,
        members: Members,
        skip: Sequence[int],
        on_failure: Callable[[int, Outcome], None] | None,
    ):
        self.members, self.on_failure = members, on_failure
        # What all members have in common, the first one's.
        self.job, self.engine, self.program = members.job, members.job.engine, members.program
        self.ledgers = {i: Ledger(job) for i, job in enumerate(members.jobs) if i not in skip}
        self.failed: dict[int, Outcome] = {}
        self.saved = time.perf_counter()

    @property
    def living(self) -> dict[int, Ledger]:
        """The ledgers of members that train."""
        return {i: ledger for i, ledger in self.ledgers.items() if i not in self.failed}

    def resume(self) -> None:
        """Continues from the latest checkpoint that every member has whole, if there is one."""
        step, saved = self._newest()
        states = self.members.initial()
        for i, ledger in self.ledgers.items():
            states[i] = ledger.restore(states[i], step, saved.get(i))
        # Members that were skipped step along.
        number = states[next(iter(self.ledgers), 0)].step
        self.state = self.members.put([state._replace(step=number) for state in states])
        self.progress = self._progress(int(number))

    def _newest(self) -> tuple[int | None, dict[int, Saved]]:
        """Restores the latest step that every member has whole; None where there is none."""
        while True:
            steps = [set(ledger.checkpoints.steps()) for ledger in self.ledgers.values()]
            step = max(set.intersection(*steps), default=None) if steps else None
            if step is None:
                return None, {}
            try:
                return step, {
                    i: ledger.checkpoints.restore_or_put_aside(
                        ledger.like(self.members.like[i]), step, quiet=self.job.quiet
                    )
                    for i, ledger in self.ledgers.items()
                }
            except DamagedCheckpoint:
                continue

    def _progress(self, step: int) -> Progress:
        """Returns what tells the images that are done and the time that is left."""
        job, jobs, steps = self.job, self.members.jobs, self.program.steps_per_epoch
        # Images of an epoch: a short last batch may be left out.
        total = min(len(job.train.labels), steps * job.batch_size)
        name = job.name if len(jobs) == 1 else f'{job.name} and {len(jobs) - 1} more'
        images, after = len(jobs) * job.last_epoch * total, min(one.after for one in jobs)
        progress = Progress(name, images, job.quiet, after)
        progress.start(len(jobs) * images_done(step, steps, job.batch_size, total))
        return progress

    def calls(self) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Yields each call's index rows and weights, as long as a member lives.

        Beside them stands the epoch that ends with the call, from 1, or 0.
        """
        steps, most = self.program.steps_per_epoch, self.engine.steps_per_call
        self._snapshots()
        for epoch in range(int(self.state.step) // steps, self.job.last_epoch):
            rows, weights = self.members.order(epoch)
            done = int(self.state.step) - epoch * steps
            for first, stop in device_calls(steps, most, done):
                if not self.living:
                    return
                stop_if_asked(self.progress.name, int(self.state.step), self._save)
                yield rows[first:stop], weights[first:stop], epoch + 1 if stop == steps else 0

    def note(self, values: dict[str, np.ndarray], seconds: float, images: int) -> None:
        """Adds a device call's metrics, leaves [S, steps], to the ledgers."""
        share, stop = seconds / len(self.living), int(self.state.step)
        for i, ledger in self.living.items():
            own = {name: value[i] for name, value in values.items()}
            self._guard(i, partial(ledger.add, own, share, stop))
        self.progress.update(len(self.members.jobs) * images)

    def _guard(self, index: int, act: Callable[[], Any]) -> Any:
        """Runs what concerns one member; its failure is its own."""
        try:
            return act()
        except (NonFiniteLoss, Unconverged) as error:
            seconds = self.ledgers[index].info['seconds']
            self.failed[index] = Outcome(None, seconds, error)
            if self.on_failure:
                self.on_failure(index, self.failed[index])
            return None

    def end_epoch(self, epoch: int) -> None:
        """Validates where due, writes the members' rows, and says a line."""
        self._snapshots()
        if not self.living:
            self.progress.note('no member trains any longer')
            return
        step, got, rows = int(self.state.step), self._validate(epoch), []
        for i, ledger in self.living.items():
            weights = partial(self.members.weights, self.state, i)
            row = self._guard(i, partial(ledger.end_epoch, epoch, step, got.get(i), weights))
            if row is not None:
                rows.append(row)
                save = partial(self._save_member, i)
                self._guard(i, partial(ledger.watch, row, save))
        self.progress.note(f'epoch {epoch}/{self.program.epochs}' + _ranges(rows))

    def _validate(self, epoch: int) -> dict[int, Evaluation | None]:
        """Evaluates the members on the validation split, where an epoch ends with it."""
        job, living = self.job, self.living
        if job.val is None or not next(iter(living.values())).due(epoch):
            return {}
        started = time.perf_counter()
        logits = self.members.logits(self.state)
        got = {
            i: self._guard(i, partial(ledger.validate, epoch, logits[i], job.val.labels))
            for i, ledger in living.items()
        }
        for ledger in self.living.values():
            ledger.info['seconds'] += (time.perf_counter() - started) / len(self.living)
        return got

    def _save_member(self, index: int) -> None:
        self.ledgers[index].save(self.members.state(self.state, index))

    def save_where_due(self, epoch: int) -> None:
        """Saves the members after the last epoch, and where the last save is long ago."""
        waited = time.perf_counter() - self.saved
        if epoch == self.job.last_epoch or waited > self.engine.checkpoint_seconds:
            self._save()

    def _save(self) -> None:
        for i in self.living:
            self._guard(i, partial(self._save_member, i))
        self.saved = time.perf_counter()

    def _snapshots(self) -> None:
        every = self.engine.snapshot_every
        for i, ledger in self.living.items() if every else ():
            state = self.members.state(self.state, i)
            take_snapshot(ledger.job.directory, every, self.program, state)

    def outcomes(self) -> list[Outcome | None]:
        """Returns how each member ended, None for those skipped."""
        out = [self.failed.get(i) for i in range(len(self.members.jobs))]
        put = partial(replicate, mesh=self.program.mesh)
        for i, ledger in self.living.items():
            done = ledger.result(put(self.members.weights(self.state, i)), put(ledger.best))
            out[i] = Outcome(done, done.seconds)
        return out


def _ranges(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the members' losses and accuracies, as ranges where there are several."""
    losses = [row['loss'] for row in rows]
    vals = [100 * row['val_accuracy'] for row in rows if row['val_accuracy'] is not None]
    text = f' loss {_range(losses, 4)}' if losses else ''
    return text + (f' val {_range(vals, 2)}%' if vals else '')


def _range(values: Sequence[float], digits: int) -> str:
    low, high = (f'{end(values):.{digits}f}' for end in (min, max))
    return low if len(values) == 1 else f'{low} to {high}'
