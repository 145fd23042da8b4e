"""The training loop of one job: epochs on the device, checkpoints, metrics, resumption.

Everything random is a function of the run's key, the epoch and the step, so a killed job that
starts again from its last checkpoint takes the same steps and ends with the same bits.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.core.devices import num_cores
from jax_prompt.core.tree import Tree
from jax_prompt.evals.classify import Evaluation, NonFiniteLogits, evaluate
from jax_prompt.train.checkpoint import Checkpoints, Saved
from jax_prompt.train.job import Fit, Job, NonFiniteLoss, Unconverged, diverged, find_nonfinite
from jax_prompt.train.log import Progress, append_metrics, read_metrics, rewrite_metrics
from jax_prompt.train.mesh import replicate
from jax_prompt.train.metrics import add_steps, epoch_means, too_few_converged
from jax_prompt.train.optim import Hyper
from jax_prompt.train.order import device_calls, epoch_order, images_done
from jax_prompt.train.snapshots import take_snapshot
from jax_prompt.train.step import TrainState, make_logits, make_step, make_steps
from jax_prompt.train.stopping import after_the_call, stop_if_asked


def fit(job: Job, trainable: Tree, frozen: Tree) -> Fit:
    """Trains a job from its last checkpoint, or from the start.

    Args:
      job: what to train.
      trainable: initial trainable tree.
      frozen: frozen tree, on the device.

    Raises:
      NonFiniteLoss: names the step; what was saved before stays.
    """
    training = _Training(job, trainable, frozen)
    try:
        training.resume()
        with after_the_call():
            training.run()
    finally:
        training.record.checkpoints.close()
    return training.result()


class Ledger:
    """What is kept of a job beside its state: sums, best weights, metrics and checkpoints.

    One training drives one record, a population one a member.

    Args:
      job: the training.
      trainable: its initial trainable tree.
    """

    def __init__(self, job: Job, trainable: Tree):
        self.job, self.program = job, job.program
        # A copy: the state is donated step by step, and `best` must not share its buffers.
        self.best = jax.tree.map(jnp.copy, trainable) if job.val else {}
        self.info: dict[str, Any] = {
            'val_accuracy': None,
            'best_val_accuracy': None,
            'best_epoch': 0,
            'seconds': 0.0,
            'sums': {},
            'cores': [],
        }
        self.checkpoints = Checkpoints(job.directory)
        self.saved, self.earlier = time.perf_counter(), 0.0

    def like(self, state: TrainState) -> Tree:
        """Returns a tree of the form of what a checkpoint holds."""
        return {'state': state._asdict(), 'best': self.best}

    def restore(self, state: TrainState, step: int | None, saved: Saved | None) -> TrainState:
        """Takes up what the checkpoint of a step holds, and returns its state, numpy.

        Where there is no checkpoint it is `state`. Metrics of later epochs are forgotten.
        """
        if saved is not None:
            tree, self.info = saved
            state, self.best = TrainState(**tree['state']), tree['best']
            self.earlier = self.info['seconds']
        if self.job.metrics:
            done = (step or 0) // self.program.steps_per_epoch
            name = self.job.name
            rewrite_metrics(
                self.job.metrics, lambda r: r['stage'] != name or r.get('epoch', 0) <= done
            )
        return state

    def add(self, values: dict[str, np.ndarray], seconds: float, stop: int) -> None:
        """Adds the metrics of the steps before step `stop`, leaves [steps].

        Raises:
          NonFiniteLoss: one of their losses is not finite.
        """
        losses = values['loss']
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            step = stop - len(losses) + int(bad[0])
            epoch = step // self.program.steps_per_epoch + 1
            raise self.diverged(f'the loss is {losses[bad[0]]} at step {step} (epoch {epoch})')
        self.info['sums'] = add_steps(self.info['sums'], values, seconds)
        self.info['seconds'] += seconds
        self.info['cores'] = sorted({*self.info.get('cores', []), num_cores()})

    def diverged(self, what: str) -> NonFiniteLoss:
        """Returns the error of a training that ended in NaN or infinity; `what` says where."""
        lr, kept = float(self.job.hyper.lr), self.checkpoints.latest()
        return diverged(self.job.name, what, lr, kept)

    def validate(self, epoch: int, act: Callable[[], Evaluation]) -> Evaluation:
        """Evaluates the validation split at the end of an epoch.

        Raises:
          NonFiniteLoss: a logit is not finite.
        """
        try:
            return act()
        except NonFiniteLogits as error:
            raise self.diverged(f'val after epoch {epoch}: {error}') from error

    def due(self, epoch: int) -> bool:
        """Whether an epoch ends with a validation."""
        job = self.job
        every = epoch % job.eval_every == 0 or epoch == job.last_epoch
        return job.val is not None and every

    def end_epoch(
        self, epoch: int, step: int, got: Evaluation | None, weights: Callable[[], Tree]
    ) -> dict[str, Any]:
        """Writes an epoch's row of metrics and returns it.

        Args:
          epoch: which, from 1.
          step: steps done.
          got: its validation, or None.
          weights: gives what was validated, a tree of its own.

        Raises:
          NonFiniteLoss: every step of the epoch was skipped.
        """
        job, info, sums = self.job, self.info, self.info['sums']
        if not sums['steps']:
            raise NonFiniteLoss(
                f'{job.name}: every step of epoch {epoch} was skipped: no finite loss and '
                f'gradient at learning rate {float(job.hyper.lr):g}; lower lr'
            )
        row = {
            'kind': 'epoch',
            'stage': job.name,
            'epoch': epoch,
            'step': step,
            'val_accuracy': None,
            **epoch_means(sums),
        }
        if got is not None:
            row |= {'val_accuracy': got.accuracy, 'val_loss': got.loss}
            info['val_accuracy'] = got.accuracy
            if info['best_val_accuracy'] is None or got.accuracy > info['best_val_accuracy']:
                info['best_val_accuracy'], info['best_epoch'] = got.accuracy, epoch
                self.best = weights()
        info['sums'] = {}
        if job.metrics:
            append_metrics(job.metrics, row)
        return row

    def watch(self, row: dict[str, Any], save: Callable[[], None]) -> None:
        """Says, or stops after `save`, where fewer inner solves converged than asked for."""
        job = self.job
        text = too_few_converged(row, job.min_converged)
        if text is None:
            return
        text = f'{job.name}: epoch {row["epoch"]}: {text}'
        if job.stop_unconverged:
            save()
            raise Unconverged(f'{text}. Its checkpoint is kept, step {self.checkpoints.latest()}')
        if not job.quiet:
            print(f'warning: {text}', flush=True)

    def save(self, state: TrainState) -> None:
        """Writes a checkpoint.

        Raises:
          NonFiniteLoss: a trained weight is not finite. The loss of the next step would say so, but
            after the last step there is none.
        """
        if name := find_nonfinite({'trained': state.trainable, 'average': state.ema}):
            raise self.diverged(f'{name} is not finite after step {int(state.step)}')
        self.checkpoints.save(int(state.step), self.like(state), self.info)
        self.saved = time.perf_counter()

    def result(self, weights: Tree) -> Fit:
        """Returns what the job gave, with the weights that it ended with."""
        rates = []
        if self.job.metrics:
            rows = [r for r in read_metrics(self.job.metrics) if r['stage'] == self.job.name]
            rates = [r['images_per_second'] for r in rows if r['kind'] == 'epoch']
        return Fit(
            trainable=weights,
            best=self.best,
            val_accuracy=self.info['val_accuracy'],
            best_val_accuracy=self.info['best_val_accuracy'],
            best_epoch=self.info['best_epoch'],
            seconds=self.info['seconds'],
            images_per_second=float(np.median(rates)) if rates else 0.0,
            earlier_seconds=self.earlier,
            step=self.checkpoints.latest() or 0,
            cores=tuple(self.info.get('cores', [])),
        )


class _Training:
    """The state of one job between device calls."""

    def __init__(self, job: Job, trainable: Tree, frozen: Tree):
        self.job, self.program, self.frozen = job, job.program, frozen
        self.record = Ledger(job, trainable)
        put = partial(replicate, mesh=self.program.mesh)
        self.state = put(self.program.init(jax.tree.map(jnp.copy, trainable)))
        self.order_key, step_key = jax.random.split(jax.random.key(job.seed))
        self.step_key = put(step_key)
        self.resident = not hasattr(job.train.data, 'batches')
        self.data: Any = job.train.data
        if self.resident:
            self.data = put(self.data)
        self.labels = put(np.asarray(job.train.labels, np.int32))
        # Arrays, not constants: every candidate of a search runs the same compiled program.
        self.hyper = put(Hyper(*(jnp.asarray(value, jnp.float32) for value in job.hyper)))
        self.logits = partial(make_logits, self.program)

    def resume(self) -> None:
        """Continues from the last whole checkpoint, if any, and forgets metrics after it."""
        like, quiet = self.record.like(self.state), self.job.quiet
        step, saved = self.record.checkpoints.newest(like, quiet=quiet)
        state = self.record.restore(self.state, step, saved)
        if step is not None:
            self.state = replicate(state, self.program.mesh)
            self.record.best = replicate(self.record.best, self.program.mesh)

    def run(self) -> None:
        """Trains to the stage's last epoch."""
        job, step = self.job, int(self.state.step)
        steps, count = self.program.steps_per_epoch, len(job.train.labels)
        total = min(count, steps * job.batch_size)  # images of an epoch
        progress = Progress(job.name, job.last_epoch * total, job.quiet, job.after)
        progress.start(images_done(step, steps, job.batch_size, total))
        take_snapshot(job.directory, job.snapshot_every, self.program, self.state)
        for epoch in range(step // steps, job.last_epoch):
            rows, weights = epoch_order(self.order_key, epoch, count, job.batch_size, steps)
            done = int(self.state.step) - epoch * steps
            for first, stop in device_calls(steps, job.steps_per_call, done):
                save = partial(self.record.save, self.state)
                stop_if_asked(job.name, int(self.state.step), save)
                self._call(rows[first:stop], weights[first:stop])
                progress.update(int(weights[first:stop].sum()))
                if stop == steps:
                    take_snapshot(job.directory, job.snapshot_every, self.program, self.state)
                    progress.note(self._end_epoch(epoch + 1))
                last = stop == steps and epoch + 1 == job.last_epoch
                if last or time.perf_counter() - self.record.saved > job.checkpoint_seconds:
                    self.record.save(self.state)
        progress.close()

    def _call(self, rows: np.ndarray, weights: np.ndarray) -> None:
        started = time.perf_counter()
        args = (self.hyper, self.step_key)
        if self.resident:
            self.state, metrics = make_steps(
                self.program, self.state, self.frozen, self.data, self.labels, rows, weights, *args
            )
            values = {name: np.asarray(value) for name, value in metrics.items()}
        else:
            history = []
            for weight, (x, y) in zip(weights, self.data.batches(rows), strict=True):
                self.state, metrics = make_step(
                    self.program, self.state, self.frozen, x, y, weight, *args
                )
                history.append(metrics)
            values = {k: np.stack([np.asarray(m[k]) for m in history]) for k in history[0]}
        self.record.add(values, time.perf_counter() - started, int(self.state.step))

    def _end_epoch(self, epoch: int) -> str:
        """Validates where due, writes the epoch's metrics, and returns a line for the terminal."""
        job, record, got = self.job, self.record, None
        weights = self.program.weights(self.state)
        if job.val is not None and record.due(epoch):
            started = time.perf_counter()
            split = (*job.val, job.eval_batch_size)
            act = partial(evaluate, self.logits, weights, self.frozen, *split)
            got = record.validate(epoch, act)
            record.info['seconds'] += time.perf_counter() - started
        row = record.end_epoch(
            epoch, int(self.state.step), got, lambda: jax.tree.map(jnp.copy, weights)
        )
        record.watch(row, lambda: record.save(self.state))
        val = row['val_accuracy']
        shown = '' if val is None else f' val {100 * val:.2f}%'
        return f'epoch {epoch}/{self.program.epochs} loss {row["loss"]:.4f}' + shown

    def result(self) -> Fit:
        """Returns what the job gave."""
        return self.record.result(self.program.weights(self.state))
