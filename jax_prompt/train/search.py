"""The search: candidates train on the training split, and the validation split chooses one.

They train side by side (`population.py`) in groups of one size, or one after the other. With rungs
(successive halving) all reach a rung before the worse of them are dropped; the learning rate's
schedule stays that of all epochs.

In the run directory `search/NAME/` holds each candidate's checkpoints and, once it is done, failed
or dropped, its result.json; `search/plan.json` how many train side by side, and why; and
`search/rungs.json` what each rung kept. A killed search goes on from these to the same bits.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jax_prompt.core.tree import Tree
from jax_prompt.train.log import read_json, write_json
from jax_prompt.train.loop import fit
from jax_prompt.train.parallel import replicate
from jax_prompt.train.population import Outcome, fit_population
from jax_prompt.train.sizing import Population, choose_size
from jax_prompt.train.stage import Fit, NonFiniteLoss, Stage, Unconverged

Row = dict[str, Any]


@dataclass
class Found:
    """What a search gives.

    Attributes:
      name: of the candidate chosen.
      fit: what its training gave.
      rows: of all candidates, as in the run's result.json.
      earlier: seconds that earlier processes of this run spent on the search.
    """

    name: str
    fit: Fit
    rows: list[Row]
    earlier: float

    @property
    def row(self) -> Row:
        """The chosen candidate's row."""
        return next(row for row in self.rows if row['name'] == self.name)


class Search:
    """A search, begun or gone on with.

    Args:
      stages: the candidates by name; they differ in name, directory and hyper.
      trainable: initial trainable tree.
      frozen: frozen tree, on the device.
      folder: `search` of the run directory.
      options: how they train.
      say: prints a line.
    """

    def __init__(
        self,
        stages: Mapping[str, Stage],
        trainable: Tree,
        frozen: Tree,
        folder: Path,
        options: Population,
        say: Callable[[str], None],
    ):
        self.stages, self.folder, self.options, self.say = stages, folder, options, say
        self.trainable, self.frozen = trainable, frozen
        self.size, self.fits = 1, dict[str, Fit]()
        saved = {name: read_json(folder / name / 'result.json') for name in stages}
        self.rows: dict[str, Row] = {name: row for name, row in saved.items() if row}
        self.earlier = {name: row['seconds'] for name, row in self.rows.items()}

    def run(self) -> Found:
        """Trains the candidates and chooses.

        Raises:
          NonFiniteLoss: every candidate failed.
        """
        names, last = list(self.stages), next(iter(self.stages.values())).last_epoch
        if len(self.rows) < len(names):
            self.size = self._plan()
        for epoch in self.options.rungs:
            names = self._rung(epoch, names)
        self._train(names, last)
        for name in names:
            if name not in self.rows:
                self._write(name, self._row(name, 'done', self.fits[name]))
        return self._choose()

    def _plan(self) -> int:
        """Returns how many train side by side; what an earlier process chose stays."""
        path = self.folder / 'plan.json'
        if (saved := read_json(path)) is not None:
            return saved['members']
        size = choose_size(list(self.stages.values()), self.trainable, self.frozen, self.options)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(size))
        if len(self.stages) > 1:
            self.say(f'search: {size.members} of {len(self.stages)} side by side: {size.reason}')
        return size.members

    def _rung(self, epoch: int, names: list[str]) -> list[str]:
        """Trains to a rung and drops the worse candidates there; returns those that go on."""
        path = self.folder / 'rungs.json'
        rungs = read_json(path) or {}
        if str(epoch) not in rungs:
            self._train(names, epoch)
            vals = {n: self.fits[n].val_accuracy for n in names if n not in self.rows}
            ranked = sorted(vals, key=lambda n: self._merit(n, vals[n]), reverse=True)
            kept = ranked[: math.ceil(len(ranked) / self.options.eta)]
            dropped = {}
            for rank, name in enumerate(ranked[len(kept) :], len(kept) + 1):
                val = 100 * (self.fits[name].val_accuracy or 0.0)
                status = f'dropped at epoch {epoch} (rank {rank} of {len(ranked)}, val {val:.2f} %)'
                dropped[name] = self._row(name, status, None, self.fits[name].seconds)
            rungs[str(epoch)] = {'kept': kept, 'dropped': dropped}
            write_json(path, rungs)
            self.say(f'search: {len(kept)} of {len(ranked)} go on after epoch {epoch}')
        for name, row in rungs[str(epoch)]['dropped'].items():
            if name not in self.rows:
                self._write(name, row)
        return rungs[str(epoch)]['kept']

    def _merit(self, name: str, val: float | None) -> tuple[float, float, float]:
        """Orders candidates: accuracy on val; ties to the smaller learning rate, then decay."""
        hyper = self.stages[name].hyper
        return (val or 0.0, -float(hyper.lr), -float(hyper.weight_decay))

    def _train(self, names: Sequence[str], until: int) -> None:
        """Trains those without a row to the end of an epoch; who fails gets its row."""
        for first in range(0, len(names), self.size):
            group = names[first : first + self.size]
            skip = [i for i, name in enumerate(group) if name in self.rows]
            if len(skip) == len(group):
                continue
            stages = [replace(self.stages[name], until=until) for name in group]
            if len(group) == 1:
                self._note(group[0], self._alone(stages[0]))
                continue

            def failed(index: int, outcome: Outcome, group: Sequence[str] = group) -> None:
                self._note(group[index], outcome)

            trainables = [self.trainable] * len(group)
            outcomes = fit_population(stages, trainables, self.frozen, skip, failed)
            for name, outcome in zip(group, outcomes, strict=True):
                if outcome is not None and outcome.fit is not None:
                    self._note(name, outcome)

    def _alone(self, stage: Stage) -> Outcome:
        began = time.perf_counter()
        try:
            done = fit(stage, replicate(self.trainable, stage.program.mesh), self.frozen)
        except (NonFiniteLoss, Unconverged) as error:
            self.say(str(error))
            return Outcome(None, str(error), time.perf_counter() - began)
        return Outcome(done, 'done', done.seconds)

    def _note(self, name: str, outcome: Outcome) -> None:
        if outcome.fit is None:
            self._write(name, self._row(name, outcome.status, None, outcome.seconds))
            return
        self.fits[name] = outcome.fit
        self.earlier.setdefault(name, outcome.fit.earlier_seconds)

    def _row(self, name: str, status: str, done: Fit | None, seconds: float = 0.0) -> Row:
        """Returns a candidate's row; one that failed or was dropped has no accuracy."""
        return {
            **{k: float(v) for k, v in self.stages[name].hyper._asdict().items()},
            'val_accuracy': done.val_accuracy if done else None,
            'best_val_accuracy': done.best_val_accuracy if done else None,
            'best_val_epoch': done.best_epoch if done else 0,
            'status': status,
            'seconds': done.seconds if done else seconds,
        }

    def _write(self, name: str, row: Row) -> None:
        path = self.folder / name / 'result.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, row)
        self.rows[name] = row

    def _choose(self) -> Found:
        rows = [{'name': name, **self.rows[name]} for name in self.stages]
        good = [row for row in rows if row['val_accuracy'] is not None]
        if not good:
            reasons = '; '.join(row['status'] for row in rows)
            raise NonFiniteLoss(f'every candidate of {[*self.stages]} failed: {reasons}')
        best = max(good, key=lambda row: self._merit(row['name'], row['val_accuracy']))
        name = best['name']
        self.say(f'search: {name} chosen on the validation split')
        earlier = sum(self.earlier.values())
        # A candidate of an earlier process is read back from its last checkpoint.
        done = self.fits[name] if name in self.fits else self._alone(self.stages[name]).fit
        assert done is not None
        return Found(name, done, rows, earlier)
