"""The search: candidates train on the training split, and the validation split chooses one.

They train side by side (`population.py`) in groups of one size, or one after the other. Candidates
of unlike numbers of prompts share a group where prompts can be masked (`padding.py`). With rungs
(successive halving) all reach a rung before the worse of them are dropped; the learning rate's
schedule stays that of all epochs.

In the run directory `search/NAME/` holds each candidate's checkpoints and, once it is done, failed
or dropped, its result.json; `search/plan.json` how many train side by side, and why; and
`search/rungs.json` what each rung kept. A killed search goes on from these to the same bits.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jax_prompt.search.padding import obstacle
from jax_prompt.search.population import fit_population
from jax_prompt.search.sizing import Population, choose_size
from jax_prompt.train.job import Fit, Job, NonFiniteLoss, Outcome
from jax_prompt.train.log import read_json, write_json
from jax_prompt.train.loop import fit
from jax_prompt.train.optim import Hyper

CandidateRow = dict[str, Any]
_FOUND = ('val_accuracy', 'best_val_accuracy', 'best_val_epoch', 'status', 'seconds')
_NEEDS = (*Hyper._fields, *_FOUND)  # of a candidate's row
_AGAIN = "remove the run's folder 'search' and start again: the search begins anew"


@dataclass(frozen=True)
class Candidate:
    """What a search may choose.

    Attributes:
      job: its training.
      num_prompts: P; None for methods without prompts.
    """

    job: Job
    num_prompts: int | None = None


@dataclass
class Chosen:
    """What a search gives.

    Attributes:
      name: of the candidate chosen.
      fit: what its training gave.
      rows: of all candidates, as in the run's result.json.
      earlier: seconds that earlier processes of this run spent on the search.
    """

    name: str
    fit: Fit
    rows: list[CandidateRow]
    earlier: float

    @property
    def row(self) -> CandidateRow:
        """The chosen candidate's row."""
        return next(row for row in self.rows if row['name'] == self.name)


class Search:
    """A search, begun or gone on with.

    Args:
      candidates: by name; jobs differ in name, directory, hyper and the number of prompts.
      folder: `search` of the run directory.
      options: how they train.
      say: prints a line.
    """

    def __init__(
        self,
        candidates: Mapping[str, Candidate],
        folder: Path,
        options: Population,
        say: Callable[[str], None],
    ):
        self.candidates, self.folder, self.options, self.say = candidates, folder, options, say
        self.size, self.fits, self.apart = 1, dict[str, Fit](), _apart([*candidates.values()])
        files = {name: folder / name / 'result.json' for name in candidates}
        saved = {name: read_json(file, needs=_NEEDS) for name, file in files.items()}
        self.rows: dict[str, CandidateRow] = {name: row for name, row in saved.items() if row}
        self.earlier = {name: row['seconds'] for name, row in self.rows.items()}

    def run(self) -> Chosen:
        """Trains the candidates and chooses.

        Raises:
          NonFiniteLoss: every candidate failed.
        """
        names = list(self.candidates)
        last = self.candidates[names[0]].job.last_epoch
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
        if (saved := read_json(path, _AGAIN, ('members',))) is not None:
            if saved['members'] not in range(1, len(self.candidates) + 1):
                raise ValueError(f'{path} says members {saved["members"]!r}: {_AGAIN}')
            return saved['members']
        # If those with most prompts fit, the others fit too.
        names = self._pools(list(self.candidates))[-1]
        pool = [self.candidates[name] for name in names]
        pool.sort(key=lambda one: -(one.num_prompts or 0))
        size = choose_size([one.job for one in pool], self.options)
        lengths = self._lengths(size.members)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(size) | ({'lengths': lengths} if lengths else {}))
        if len(self.candidates) > 1:
            many = f'{size.members} at a time' if size.members > 1 else 'one at a time'
            text = f'search: {len(self.candidates)} candidates, {many}, because {size.reason}'
            self.say(f'{text}; {lengths}' if lengths else text)
        return size.members

    def _pools(self, names: Sequence[str]) -> list[list[str]]:
        """Sorts candidates into those that may share a program, few prompts first."""
        counts = {name: self.candidates[name].num_prompts or 0 for name in names}
        ordered = sorted(names, key=lambda name: counts[name])
        if not self.apart:
            return [ordered]
        pools: dict[int, list[str]] = {}
        for name in ordered:
            pools.setdefault(counts[name], []).append(name)
        return list(pools.values())

    def _lengths(self, size: int) -> str:
        """Says how candidates of unlike numbers of prompts train; '' where all have as many."""
        counts = sorted({one.num_prompts or 0 for one in self.candidates.values()})
        if len(counts) < 2:
            return ''
        text = f'{", ".join(map(str, counts))} prompts: '
        if size == 1:
            return (
                text + 'one candidate at a time' + (f', because {self.apart}' if self.apart else '')
            )
        if self.apart:
            return text + f'a population for each number, because {self.apart}'
        return text + 'trained together; shorter prompts are padded and masked'

    def _rung(self, epoch: int, names: list[str]) -> list[str]:
        """Trains to a rung and drops the worse candidates there; returns those that go on."""
        path = self.folder / 'rungs.json'
        rungs = read_json(path, _AGAIN) or {}
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
        rung = rungs[str(epoch)]
        if not _is_rung(rung, self.candidates):
            raise ValueError(f'{path} is damaged at epoch {epoch}: {_AGAIN}')
        for name, row in rung['dropped'].items():
            if name not in self.rows:
                self._write(name, row)
        return rung['kept']

    def _merit(self, name: str, val: float | None) -> tuple[float, ...]:
        """Orders candidates by val; ties go to the smaller rate, decays and number of prompts."""
        one = self.candidates[name]
        hyper, count = one.job.hyper, one.num_prompts or 0
        decays = -float(hyper.weight_decay), -float(hyper.head_weight_decay)
        return (val or 0.0, -float(hyper.lr), *decays, -count)

    def _train(self, names: Sequence[str], until: int) -> None:
        """Trains those without a row to the end of an epoch; who fails gets its row."""
        for pool in self._pools(names):
            for first in range(0, len(pool), self.size):
                self._train_group(pool[first : first + self.size], until)

    def _train_group(self, group: Sequence[str], until: int) -> None:
        skip = [i for i, name in enumerate(group) if name in self.rows]
        if len(skip) == len(group):
            return
        jobs = [replace(self.candidates[name].job, until=until) for name in group]

        def failed(index: int, outcome: Outcome) -> None:
            name = group[index]
            self.say(outcome.status)
            self._write(name, self._row(name, outcome.status, None, outcome.seconds))

        for name, outcome in zip(group, fit_population(jobs, skip, failed), strict=True):
            if outcome is not None and outcome.fit is not None:
                self.fits[name] = outcome.fit
                self.earlier.setdefault(name, outcome.fit.earlier_seconds)

    def _row(self, name: str, status: str, done: Fit | None, seconds: float = 0.0) -> CandidateRow:
        """Returns a candidate's row; one that failed or was dropped has no accuracy."""
        one = self.candidates[name]
        return {
            **{k: float(v) for k, v in one.job.hyper._asdict().items()},
            **({} if one.num_prompts is None else {'num_prompts': one.num_prompts}),
            'val_accuracy': done.val_accuracy if done else None,
            'best_val_accuracy': done.best_val_accuracy if done else None,
            'best_val_epoch': done.best_epoch if done else 0,
            'status': status,
            'seconds': done.seconds if done else seconds,
        }

    def _write(self, name: str, row: CandidateRow) -> None:
        path = self.folder / name / 'result.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, row)
        self.rows[name] = row

    def _choose(self) -> Chosen:
        rows = [{'name': name, **self.rows[name]} for name in self.candidates]
        good = [row for row in rows if row['val_accuracy'] is not None]
        if not good:
            reasons = '; '.join(row['status'] for row in rows)
            raise NonFiniteLoss(f'every candidate of {[*self.candidates]} failed: {reasons}')
        best = max(good, key=lambda row: self._merit(row['name'], row['val_accuracy']))
        name = best['name']
        self.say(f'search: {name} chosen on the validation split')
        earlier = sum(self.earlier.values())
        # A candidate of an earlier process is read back from its last checkpoint.
        done = self.fits.get(name) or fit(self.candidates[name].job)
        return Chosen(name, done, rows, earlier)


def _is_rung(saved: Any, names: Collection[str]) -> bool:
    """Whether rungs.json says which candidates an epoch kept, and what the others reached."""
    if not isinstance(saved, dict) or saved.keys() != {'kept', 'dropped'}:
        return False
    kept, dropped = saved['kept'], saved['dropped']
    if not isinstance(kept, list) or not isinstance(dropped, dict):
        return False
    rows = all(isinstance(row, dict) and row.keys() >= set(_NEEDS) for row in dropped.values())
    return rows and {*map(str, kept), *dropped} <= set(names)


def _apart(candidates: Sequence[Candidate]) -> str:
    """Returns why each number of prompts needs populations of its own; '' where none does."""
    if len({one.num_prompts for one in candidates}) < 2:
        return ''
    if any(one.job.frozen is not candidates[0].job.frozen for one in candidates):
        return 'each number has frozen prompts of its own'
    return obstacle([one.job.program for one in candidates])
