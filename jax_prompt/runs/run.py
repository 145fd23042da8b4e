"""A whole run, read top to bottom: data, weights, calibration, search, training, one look at test.

A run directory holds

    config.json       the resolved configuration
    split.json.gz     which images are train, val and test (`runs/kept.py`)
    metrics.jsonl     a row an epoch of every job
    prototypes.npz    calibrated prompts, where the method has them (prototypes_p_P.npz for each P
                      of a search over it)
    search/NAME/      checkpoints and result.json of each candidate (`search/search.py`)
    checkpoints/      the final training's, with snapshots/epoch_0003.npz (engine.snapshot_every)
    pruned.json       what a first training kept, and pruned/, the second one's checkpoints (E2VPT)
    result.json       written last: a directory without it is no result
    chosen.json       of a search alone (`search`), in place of a result: what it chose

and is enough to resume, to evaluate and to predict. Hyperparameters are chosen on the validation
split; the test split is evaluated once, after training.
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jax_prompt.core.grids import edges
from jax_prompt.core.tree import count
from jax_prompt.methods import get_method
from jax_prompt.runs.ahead import images_after
from jax_prompt.runs.build import Prefixed, build_backbone, make_job, init_added
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.kept import check_kept, check_unchanged, keep
from jax_prompt.runs.last_look import evaluate_once
from jax_prompt.train.log import read_json, write_json
from jax_prompt.train.loop import fit
from jax_prompt.train.optim import Hyper
from jax_prompt.train.mesh import replicate, split_frozen
from jax_prompt.runs.prune import choose_kept, pruned_program
from jax_prompt.runs.result import conclusion, machine, measured_hash, peak_memory_mb, versions
from jax_prompt.search.search import Candidate, Chosen, Search
from jax_prompt.runs.inputs import join, load_splits, open_data
from jax_prompt.train.job import Data, Fit, Job
from jax_prompt.runs.starts import make_starts
from jax_prompt.train.step import Program, make_logits
from jax_prompt.runs.workdir import open_workdir, hold


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
        return _Run(config, workdir, quiet).run()


def search(config: RunConfig, workdir: str | Path, *, quiet: bool = False) -> dict[str, Any]:
    """Does the search of a run alone: chooses hyperparameters and trains no further.

    The test split is put aside as soon as the data is open: none of its images are read.

    Args:
      config: the resolved configuration.
      workdir: a directory of its own; chosen.json is written there last.
      quiet: print nothing.

    Returns:
      The content of chosen.json: the candidate's name, its hyperparameters and accuracies on val,
      and the rows of all candidates.

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
        if chosen is None:
            return _Run(config, workdir, quiet).search()
        check_kept(config, workdir)
        return chosen


@dataclass
class _Trained:
    """What training ended with, and where it lies."""

    fit: Fit
    program: Program
    hyper: Hyper
    directory: str
    searched: list[dict[str, Any]]
    splits: tuple[Data, Data | None]


class _Run:
    """One run: its pieces, prepared, trained and tested in order by `run`."""

    def __init__(self, config: RunConfig, workdir: Path, quiet: bool):
        self.config, self.workdir, self.quiet = config, workdir, quiet
        self.method = get_method(config.method)
        self.began = time.perf_counter()
        self.earlier = 0.0  # seconds of jobs trained before this process

    def run(self) -> dict[str, Any]:
        """Goes the way of a run and writes result.json."""
        self._prepare()
        trained = self._train()
        if self.config.prune.active:
            trained = self._prune(trained)
        result = {**self._test(trained), **self._describe(trained)}
        write_json(self.workdir / 'result.json', result)
        self._say(f'{conclusion(result)}; {self.workdir / "result.json"}')
        return result

    def search(self) -> dict[str, Any]:
        """Chooses on train and val, and writes chosen.json."""
        self._prepare(test=False)
        found, _ = self._search()
        chosen = {**found.row, 'search': found.rows, 'data_fingerprint': self.source.fingerprint}
        write_json(self.workdir / 'chosen.json', chosen)
        return chosen

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)

    def _prepare(self, test: bool = True) -> None:
        """Reads data and weights, makes the model, calibrates, and computes the frozen prefix."""
        config = self.config
        self.source = open_data(config, config.data)
        keep(self.source, self.workdir)
        if not test:
            seen = {name: part for name, part in self.source.splits.items() if name != 'test'}
            self.source = replace(self.source, splits=seen)
        self.backbone = build_backbone(config)
        for name, reason in self.backbone.skipped.items():
            self._say(f'weights: {name} is not used: {reason}')
        for note in self.backbone.notes:
            self._say(f'weights: {note}')
        self.size = self.backbone.config.image_size
        splits = load_splits(config, self.source.splits, self.size)
        classes, total = len(self.source.classes), sum(len(part.labels) for part in splits.values())
        self.starts, frozen = make_starts(
            config, self.backbone, classes, splits['train'], self.workdir, self._say
        )
        self.backbone = replace(self.backbone, tree=None)  # what the host had of the weights
        first = next(iter(self.starts))
        self.prefixed = Prefixed(config, self.starts[first].program, frozen, total)
        del frozen  # on several devices this was one device's copy
        self.splits = {name: self.prefixed(part) for name, part in splits.items()}
        self.shared = self.prefixed.frozen_after()
        self._take(first)
        sizes = ', '.join(f'{name} {len(part.labels)}' for name, part in splits.items())
        self._say(f'{self.source.name}: {len(self.source.classes)} classes, {sizes}')
        counts = {count(start.trainable) for start in self.starts.values()}
        text = ' to '.join(map(str, sorted({min(counts), max(counts)})))
        self._say(f'{config.method} trains {text} parameters')

    def _take(self, num_prompts: int) -> None:
        """Takes up one of the numbers of prompts; what is trained then, has as many."""
        start = self.starts[num_prompts]
        self.config = replace(self.config, num_prompts=num_prompts)
        self.trainable, self.calibration = start.trainable, start.calibration
        self.prefixed.program = start.program
        self.fixed = start.fixed
        fixed = split_frozen(start.fixed, start.program.mesh)
        self.frozen = {**self.shared, **fixed} if fixed else self.shared

    def _train(self) -> _Trained:
        """Searches where asked, then trains what will be tested."""
        config, splits = self.config, (self.splits['train'], self.splits['val'])
        if not config.search:
            data = self._both() if config.train_on == 'train+val' else splits
            fit_, program = self._fit('train', 'checkpoints', config.hyper, *data)
            return _Trained(fit_, program, config.hyper, 'checkpoints', [], data)
        found, job = self._search()
        best, hyper = found.row, job.hyper
        if not config.refit:
            where = f'search/{found.name}'
            return _Trained(found.fit, job.program, hyper, where, found.rows, splits)
        data = self._both()
        fit_, program = self._fit('train', 'checkpoints', hyper, *data)
        fit_.val_accuracy, fit_.best_val_accuracy = best['val_accuracy'], best['best_val_accuracy']
        fit_.best_epoch = best['best_val_epoch']
        return _Trained(fit_, program, hyper, 'checkpoints', found.rows, data)

    def _search(self) -> tuple[Chosen, Job]:
        """Trains the candidates on train; returns what val chose, and takes up its prompts."""
        config, train, val = self.config, self.splits['train'], self.splits['val']
        candidates = dict[str, Candidate]()
        for name, (hyper, prompts) in config.candidates.items():
            self._take(prompts)
            job = self._job(f'search/{name}', f'search/{name}', hyper, train, val)
            after = images_after(config, len(candidates) + 1, len(train.labels), len(val.labels))
            job = replace(job, after=after)
            shown = prompts if self.method.has_prompts else None
            candidates[name] = Candidate(job, self.trainable, self.frozen, shown)
        folder = self.workdir / 'search'
        found = Search(candidates, folder, config.population, self._say).run()
        for value, edge in edges(found.row, config.grids).items():
            self._say(f'search: {value} is the {edge} of its grid; a better one may lie beyond')
        self.earlier += found.earlier
        self._take(config.candidates[found.name][1])
        return found, candidates[found.name].job

    def _both(self) -> tuple[Data, None]:
        """Returns train and val as one, and that there is no validation."""
        names = ('train', 'val')
        splits = [self.source.splits[name] for name in names]
        return join(self.config, splits, [self.splits[name] for name in names], self.size), None

    def _prune(self, first: _Trained) -> _Trained:
        """Drops the least important prompts and trains again from the same initial values."""
        path, (train, val) = self.workdir / 'pruned.json', first.splits
        if (saved := read_json(path)) is not None:
            kept = saved['kept']
        else:
            weights, size = first.fit.trainable, self.config.engine.eval_batch_size
            options = self.config.prune
            kept = choose_kept(first.program, weights, self.frozen, *train, size, options)
            write_json(path, {'kept': kept})
        self.prefixed.program = pruned = pruned_program(self.prefixed.program, kept)
        self.trainable = init_added(self.config, pruned.classifier)
        self._say(f'pruned to {pruned.classifier.tuner.prompt_length} prompts a layer')
        fit_, program = self._fit('pruned', 'pruned', first.hyper, train, val)
        return _Trained(fit_, program, first.hyper, 'pruned', first.searched, first.splits)

    def _fit(
        self, name: str, directory: str, hyper: Hyper, train: Data, val: Data | None
    ) -> tuple[Fit, Program]:
        job = self._job(name, directory, hyper, train, val)
        done = fit(job, replicate(self.trainable, job.program.mesh), self.frozen)
        self.earlier += done.earlier_seconds
        return done, job.program

    def _job(
        self, name: str, directory: str, hyper: Hyper, train: Data, val: Data | None
    ) -> Job:
        config = self.config
        searching = name.startswith('search/')
        epochs = (config.search_epochs if searching else 0) or config.epochs
        program = self.prefixed.program_of(len(train.labels), epochs)
        where = self.workdir / directory
        return make_job(
            config, program, name, where, self.workdir, hyper, train, val, self.quiet
        )

    def _test(self, trained: _Trained) -> dict[str, float | None]:
        return evaluate_once(
            partial(make_logits, trained.program),
            trained.fit,
            self.frozen,
            self.splits.get('test'),
            trained.splits[0],
            self.config.engine.eval_batch_size,
        )

    def _describe(self, trained: _Trained) -> dict[str, Any]:
        """Returns all that result.json says beside the test accuracy."""
        config, backbone, done = self.config, self.backbone, trained.fit
        return {
            'val_accuracy': done.val_accuracy,
            'best_val_accuracy': done.best_val_accuracy,
            'best_val_epoch': done.best_epoch,
            'num_trainable': count(self.trainable),
            'num_trainable_head': count(self.trainable['head']),
            **trained.hyper._asdict(),
            **({'num_prompts': config.num_prompts} if self.method.has_prompts else {}),
            'search': trained.searched,
            'at_edge': edges(trained.hyper._asdict(), config.grids) if config.search else {},
            'trained_on': 'train' if trained.splits[1] else 'train+val',
            'seconds_total': time.perf_counter() - self.began + self.earlier,
            'images_per_second': done.images_per_second,
            'peak_memory_mb': peak_memory_mb(),
            'method': config.method,
            'backbone': config.backbone,
            'seed': config.seed,
            'data': self.source.name,
            'data_fingerprint': self.source.fingerprint,
            'classes': list(self.source.classes),
            'num_examples': {name: len(part.labels) for name, part in self.splits.items()},
            'calibration': self.calibration,
            'weights': backbone.identity.to_dict() if backbone.identity else None,
            'weights_notes': list(backbone.notes),
            'mean': list(backbone.mean),
            'std': list(backbone.std),
            'checkpoint': trained.directory,
            'checkpoint_step': done.step,
            'trained_sha256': measured_hash(config, done.trainable, self.fixed),
            'versions': versions(),
            'machine': {**machine(), 'cores': list(done.cores)},
        }
