"""What is kept of a training beside its state: sums, best weights, rows of metrics, checkpoints.

A ledger is a member's record: one training has one, S trainings side by side have S. The sums of an
epoch are a plain dict of numbers, so that they go into a checkpoint, and an epoch that was
interrupted is averaged over all of its steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.core.devices import num_cores
from jax_prompt.core.tree import Tree, flatten
from jax_prompt.evals.classify import Evaluation, NonFiniteLogits, score
from jax_prompt.train.checkpoint import Checkpoints, Saved
from jax_prompt.train.job import Fit, Job, NonFiniteLoss, Unconverged
from jax_prompt.train.log import append_metrics, read_metrics, rewrite_metrics
from jax_prompt.train.program import TrainState

# A step's metrics with a meaning of their own; others are averaged, or kept at their worst.
_OWN = ('loss', 'correct', 'count', 'grad_norm')

Sums = dict[str, Any]


class Ledger:
    """The record of one training.

    Args:
      job: the training.
    """

    def __init__(self, job: Job):
        self.job, self.engine, self.program = job, job.engine, job.program
        # A copy: the state is donated step by step, and `best` must not share its buffers.
        self.best = jax.tree.map(jnp.copy, job.trainable) if job.val else {}
        self.info: dict[str, Any] = {
            'val_accuracy': None,
            'best_val_accuracy': None,
            'best_epoch': 0,
            'seconds': 0.0,
            'sums': {},
            'cores': [],
        }
        self.checkpoints = Checkpoints(job.directory)
        self.earlier = 0.0

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
        left = f'The checkpoint of step {kept} is kept.' if kept else 'No checkpoint yet.'
        return NonFiniteLoss(
            f'{self.job.name}: {what}, learning rate {lr:g}; lower lr or set optim.clip_norm. '
            f'{left}'
        )

    def validate(self, epoch: int, logits: np.ndarray, labels: np.ndarray) -> Evaluation:
        """Compares logits [n, K] of the validation split with its labels, after an epoch.

        Raises:
          NonFiniteLoss: a logit is not finite.
        """
        try:
            return score(logits, labels)
        except NonFiniteLogits as error:
            raise self.diverged(f'val after epoch {epoch}: {error}') from error

    def due(self, epoch: int) -> bool:
        """Whether an epoch ends with a validation."""
        every = epoch % self.engine.eval_every == 0 or epoch == self.job.last_epoch
        return self.job.val is not None and every

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
        text = too_few_converged(row, self.engine.min_converged)
        if text is None:
            return
        text = f'{self.job.name}: epoch {row["epoch"]}: {text}'
        if self.engine.on_unconverged == 'stop':
            save()
            raise Unconverged(f'{text}. Its checkpoint is kept, step {self.checkpoints.latest()}')
        if not self.job.quiet:
            print(f'warning: {text}', flush=True)

    def save(self, state: TrainState) -> None:
        """Writes a checkpoint.

        Raises:
          NonFiniteLoss: a trained weight is not finite. The loss of the next step would say so, but
            after the last step there is none.
        """
        leaves = flatten({'trained': state.trainable, 'average': state.ema}).items()
        for name, leaf in leaves:
            if not np.isfinite(np.asarray(leaf)).all():
                raise self.diverged(f'{name} is not finite after step {int(state.step)}')
        self.checkpoints.save(int(state.step), self.like(state), self.info)

    def result(self, weights: Tree, best: Tree) -> Fit:
        """Returns what the job gave.

        Args:
          weights: those that it ended with.
          best: `self.best`, where the caller wants it to lie.
        """
        rates = []
        if self.job.metrics:
            rows = [r for r in read_metrics(self.job.metrics) if r['stage'] == self.job.name]
            rates = [r['images_per_second'] for r in rows if r['kind'] == 'epoch']
        return Fit(
            trainable=weights,
            best=best,
            val_accuracy=self.info['val_accuracy'],
            best_val_accuracy=self.info['best_val_accuracy'],
            best_epoch=self.info['best_epoch'],
            seconds=self.info['seconds'],
            images_per_second=float(np.median(rates)) if rates else 0.0,
            earlier_seconds=self.earlier,
            step=self.checkpoints.latest() or 0,
            cores=tuple(self.info.get('cores', [])),
        )


def add_steps(sums: Sums, values: dict[str, np.ndarray], seconds: float) -> Sums:
    """Adds the metrics of some steps.

    Args:
      sums: of the epoch's earlier steps; {} before the first.
      values: what `take_step` gives, leaves [steps]; a skipped step has count 0.
      seconds: what these steps took.

    Returns:
      The new sums.
    """
    count = values['count']
    others = {name: value for name, value in values.items() if name not in _OWN}
    worst = {name: float(v.max()) for name, v in others.items() if name.endswith('_worst')}
    means = {name: float((v * count).sum()) for name, v in others.items() if name not in worst}
    add = {
        'loss': float((values['loss'] * count).sum()),
        'correct': float(values['correct'].sum()),
        'count': float(count.sum()),
        'grad_norm': float(values['grad_norm'].sum()),
        'steps': int((count > 0).sum()),
        'skipped': int((count == 0).sum()),
        'seconds': seconds,
    }
    new: Sums = {name: sums.get(name, 0) + value for name, value in add.items()}
    before, above = sums.get('means', {}), sums.get('worst', {})
    new['means'] = {name: before.get(name, 0.0) + value for name, value in means.items()}
    new['worst'] = {name: max(above.get(name, value), value) for name, value in worst.items()}
    return new


def epoch_means(sums: Sums) -> dict[str, Any]:
    """Returns an epoch's row of metrics: means over its examples, and worst values as they are."""
    count = sums['count']
    row = {
        'loss': sums['loss'] / count,
        'train_accuracy': sums['correct'] / count,
        'grad_norm': sums['grad_norm'] / sums['steps'],
        'images_per_second': count / sums['seconds'],
        'seconds': sums['seconds'],
        **{name: value / count for name, value in sums['means'].items()},
        **sums['worst'],
    }
    return row | ({'skipped_steps': sums['skipped']} if sums['skipped'] else {})


def too_few_converged(row: dict[str, Any], least: float) -> str | None:
    """Returns a sentence where a share of converged inner solves lies below `least`."""
    low = {k: v for k, v in row.items() if k.endswith('_converged') and v < least}
    if not low:
        return None
    shares = ', '.join(f'{name} {share:.3f}' for name, share in low.items())
    return (
        f'less than {least:g} of the solves converged: {shares}. Raise tuner.max_iter or '
        "tuner.rtol, or take a block that is a contraction (tuner.block='clipped')"
    )
