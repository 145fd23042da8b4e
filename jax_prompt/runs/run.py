"""A whole run, read top to bottom: data, weights, calibration, search, training, one look at test.

A run directory holds

    config.json       the resolved configuration
    split.json.gz     which images are train, val and test (`runs/kept.py`)
    backbone.json     a hash of the weights that it tunes (`runs/kept.py`)
    metrics.jsonl     a row an epoch of every job
    prototypes.safetensors  calibrated prompts, where the method has them (prototypes_p_P for each P
                      of a search over it)
    search/NAME/      checkpoints and result.json of each candidate (`search/search.py`)
    checkpoints/      the final training's; in it snapshots/epoch_0003.safetensors
                      (engine.snapshot_every)
    pruned.json       what a first training kept, and pruned/, the second one's checkpoints (E2VPT)
    result.json       written last: a directory without it is no result
    chosen.json       of a search alone (`search`), in place of a result: what it chose

and is enough to resume, to evaluate and to predict. Hyperparameters are chosen on the validation
split; the test split is evaluated once, after training.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jax_prompt.core.grids import edges
from jax_prompt.core.tree import Tree, count
from jax_prompt.evals.classify import (
    Evaluation,
    NonFiniteLogits,
    evaluate,
    padded_batches,
    require_finite,
)
from jax_prompt.methods import get_method
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.fitting import Trained, after, final_job, pruned_job, search_candidates
from jax_prompt.runs.kept import check_kept, check_unchanged
from jax_prompt.runs.prepare import Prepared, prepare
from jax_prompt.runs.result import conclusion, machine, measured_hash, peak_memory_mb, versions
from jax_prompt.runs.workdir import hold, open_workdir
from jax_prompt.train.job import Data, Fit, Job, NonFiniteLoss
from jax_prompt.train.log import read_json, write_json
from jax_prompt.train.loop import fit
from jax_prompt.train.program import make_logits


def run(config: RunConfig, workdir: str | Path, *, quiet: bool = False) -> dict[str, Any]:
    """Runs a configuration in a directory, from where it stopped if it was begun.

    Args:
      config: the resolved configuration.
      workdir: the run directory.
      quiet: print nothing.

    Returns:
      The content of result.json.

    Raises:
      ValueError: the directory holds another configuration's run, its data has changed since,
        another process works in it, or the input is wrong.
      NonFiniteLoss: the final training, or every candidate of the search, diverged.
    """
    workdir = Path(workdir).expanduser()
    with hold(workdir):
        finished = open_workdir(config, workdir)
        if finished is not None:
            check_unchanged(config, workdir, finished)
            if not quiet:
                print(f'{workdir} holds this finished run; nothing to do', flush=True)
            return finished
        began = time.perf_counter()
        prepared = prepare(config, workdir, quiet=quiet)
        trained = search_candidates(prepared)[1] if config.search else None
        if trained is None or config.refit:
            job, start = final_job(prepared, trained)
            trained = after(trained, job, start, fit(job))
        if config.prune.active:
            job, start = pruned_job(prepared, trained)
            trained = after(trained, job, start, fit(job))
        tested = evaluate_once(trained.job, trained.fit, prepared.splits.get('test'))
        seconds = time.perf_counter() - began + trained.earlier
        result = {**tested, **_describe(prepared, trained, seconds)}
        write_json(workdir / 'result.json', result)
        prepared.say(f'{conclusion(result)}; {workdir / "result.json"}')
        return result


def search(config: RunConfig, workdir: str | Path, *, quiet: bool = False) -> dict[str, Any]:
    """Does the search of a run alone: chooses hyperparameters and trains no further.

    The test split is put aside as soon as the data is open: none of its images are read.

    Args:
      config: the resolved configuration.
      workdir: a directory of its own; chosen.json is written there last.
      quiet: print nothing.

    Returns:
      The content of chosen.json: the candidate's name, its hyperparameters and accuracies on val,
      which of them lie at an end of their grid, and the rows of all candidates.

    Raises:
      ValueError: no search is configured, or as `run`.
      NonFiniteLoss: every candidate diverged.
    """
    if not config.search:
        raise ValueError('search is False; nothing to choose: set search=True and search_lrs')
    workdir = Path(workdir).expanduser()
    with hold(workdir):
        open_workdir(config, workdir)
        chosen = read_json(workdir / 'chosen.json')
        if chosen is not None:
            check_kept(config, workdir)
            return chosen
        prepared = prepare(config, workdir, test=False, quiet=quiet)
        found, _ = search_candidates(prepared)
        fingerprint = prepared.source.fingerprint
        at_edge = edges(found.row, config.grids)
        chosen = {**found.row, 'at_edge': at_edge, 'search': found.rows}
        chosen['data_fingerprint'] = fingerprint
        write_json(workdir / 'chosen.json', chosen)
        return chosen


def evaluate_once(job: Job, done: Fit, test: Data | None) -> dict[str, float | None]:
    """Evaluates the test split once with the last weights, and once with the best on validation.

    Args:
      job: the training.
      done: what it gave.
      test: the test split. None: the logits of the first training batch are checked, so that a
        training that diverged in its last step gives no result.

    Returns:
      'test_accuracy', 'test_loss' and 'test_accuracy_best_val', None where there is nothing to
      evaluate.

    Raises:
      NonFiniteLoss: a logit is not finite.
    """
    logits, size = partial(make_logits, job.program), job.engine.eval_batch_size

    def score(weights: Tree, which: str) -> Evaluation | None:
        try:
            if test is not None:
                return evaluate(logits, weights, job.frozen, *test, size)
            batch = next(padded_batches(job.train.data, len(job.train.labels), size))
            require_finite(np.asarray(logits(weights, job.frozen, batch)))
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


def _describe(prepared: Prepared, trained: Trained, seconds: float) -> dict[str, Any]:
    """Returns all that result.json says beside the test accuracy."""
    config, source, backbone = prepared.config, prepared.source, prepared.backbone
    done, start = trained.fit, trained.start
    has_prompts = get_method(config.method).has_prompts
    return {
        'val_accuracy': done.val_accuracy,
        'best_val_accuracy': done.best_val_accuracy,
        'best_val_epoch': done.best_epoch,
        'num_trainable': count(start.trainable),
        'num_trainable_head': count(start.trainable['head']),
        **trained.job.hyper._asdict(),
        **({'num_prompts': start.num_prompts} if has_prompts else {}),
        'search': trained.searched,
        'at_edge': edges(trained.job.hyper._asdict(), config.grids) if config.search else {},
        'trained_on': 'train' if trained.job.val else 'train+val',
        'seconds_total': seconds,
        'images_per_second': done.images_per_second,
        'peak_memory_mb': peak_memory_mb(),
        'method': config.method,
        'backbone': config.backbone,
        'seed': config.seed,
        'data': source.name,
        'data_fingerprint': source.fingerprint,
        'classes': list(source.classes),
        'num_examples': {name: len(part.labels) for name, part in prepared.splits.items()},
        'calibration': start.calibration,
        'weights': backbone.identity.to_dict() if backbone.identity else None,
        'backbone_sha256': backbone.content,
        'weights_notes': list(backbone.notes),
        'mean': list(backbone.mean),
        'std': list(backbone.std),
        'checkpoint': trained.job.directory.relative_to(prepared.workdir).as_posix(),
        'checkpoint_step': done.step,
        'trained_sha256': measured_hash(config, done.trainable, start.fixed),
        'versions': versions(),
        'machine': {**machine(), 'cores': list(done.cores)},
    }
