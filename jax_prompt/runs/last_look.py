"""The one look at the test split, after training."""

import numpy as np

from jax_prompt.core.tree import Tree
from jax_prompt.evals.classify import (
    Evaluation,
    LogitsFn,
    NonFiniteLogits,
    evaluate,
    padded_batches,
    require_finite,
)
from jax_prompt.train.job import Data, Fit, NonFiniteLoss


def evaluate_once(
    logits: LogitsFn, done: Fit, frozen: Tree, test: Data | None, train: Data, batch_size: int
) -> dict[str, float | None]:
    """Evaluates the test split once with the last weights, and once with the best on validation.

    Args:
      logits: computes logits, as `classify.forward` takes it.
      done: what training gave.
      frozen: the frozen tree.
      test: the test split, or None.
      train: the training split. Without a test split the logits of its first batch are checked, so
        that a training that diverged in its last step gives no result.
      batch_size: examples a call.

    Returns:
      'test_accuracy', 'test_loss' and 'test_accuracy_best_val', None where there is nothing to
      evaluate.

    Raises:
      NonFiniteLoss: a logit is not finite.
    """

    def score(weights: Tree, which: str) -> Evaluation | None:
        try:
            if test is not None:
                return evaluate(logits, weights, frozen, *test, batch_size)
            batch = next(padded_batches(train.data, len(train.labels), batch_size))
            require_finite(np.asarray(logits(weights, frozen, batch)))
            return None
        except NonFiniteLogits as error:
            raise NonFiniteLoss(
                f'with the weights of the {which} epoch: {error}. There is no result; lower lr or '
                'set optim.clip_norm, and take another --workdir'
            ) from error

    last = score(done.trainable, 'last')
    best = score(done.best, 'best validation') if last and done.best else None
    return {
        'test_accuracy': last.accuracy if last else None,
        'test_loss': last.loss if last else None,
        'test_accuracy_best_val': best.accuracy if best else None,
    }
