"""One process's work on a benchmark: units are taken, done and recorded (`suite.py`)."""

import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from jax_prompt.core.lease import DEAD_SECONDS, Lease, Tenure, acquire, read_tenure
from jax_prompt.data import preflight
from jax_prompt.report import rows
from jax_prompt.report.collect import from_workdir, hyperparameters_of, options_of
from jax_prompt.runs.backbone import build_backbone
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.kept import check_kept
from jax_prompt.runs.run import run, search
from jax_prompt.runs.workdir import settle
from jax_prompt.suite.retell import Told, chosen_of, row_of
from jax_prompt.suite.suite import (
    SEARCH,
    Benchmark,
    Standing,
    Unit,
    check_ready,
    named_task,
    read_failure,
    run_keys,
    standing,
    units_of,
)
from jax_prompt.train.log import duration, write_json, write_text

_MISSING, _NOT_CHOSEN = 'MissingData', 'SearchFailed'
_print = partial(print, flush=True)


class Worker:
    """One process's work on a benchmark.

    Args:
      benchmark: what is run.
      root: the folder that processes share.
      retry_failed: do again what failed before this process started.
      dead_seconds: silence after which another process is taken for gone.
      quiet: let runs print nothing.
      say: prints a line.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        root: str | Path,
        *,
        retry_failed: bool = False,
        dead_seconds: float = DEAD_SECONDS,
        quiet: bool = False,
        say: Callable[[str], None] = _print,
    ):
        self.benchmark, self.root = benchmark, Path(root)
        self.retry_failed, self.dead_seconds = retry_failed, dead_seconds
        self.quiet, self.say = quiet, say
        self.started = _now()
        self.units = units_of(benchmark, self.root)
        self.missing: dict[str, str] = {}  # by task, '' where all is there
        self.weights: dict[str, Any] | None = None
        self.told, self.checked = Told(self.root / 'rows'), set[Path]()

    def run(self, poll_seconds: float = 5.0) -> list[Standing]:
        """Works until every unit is done or failed, by this process or by others.

        Raises:
          FileNotFoundError: the backbone's weights are not there.
          ValueError: as `check_ready`.
        """
        check_ready(self.benchmark, self.root)
        waits = False
        while True:
            ends = self._advance_all()
            if 'worked' not in ends:
                stands = standing(self.benchmark, self.root, self.dead_seconds)
                if 'busy' not in ends:
                    return stands
                if not waits:
                    busy = [one for one in stands if one.state == 'busy'][:3]
                    named = '; '.join(f'{one.unit.name} ({one.detail})' for one in busy)
                    self.say(f'waiting for units that other processes work on: {named}')
                waits = True
                time.sleep(poll_seconds)

    def _advance_all(self) -> list[str]:
        """Advances each unit, and says after each that was worked on what is left."""
        ends, times = list[str](), list[float]()
        for unit in self.units:
            began = time.perf_counter()
            ends.append(self._advance(unit))
            left = len(self.units) - len(ends)
            if ends[-1] == 'worked' and left and not self.quiet:
                times.append(time.perf_counter() - began)
                pace = duration(left * sum(times) / len(times))
                self.say(
                    f'{left} of {len(self.units)} units to look at: at most {pace} at this pace'
                )
        return ends

    def _advance(self, unit: Unit) -> str:
        """Does a unit if it can be done now; returns 'settled', 'worked' or 'busy'."""
        found = read_tenure(unit.folder, self.dead_seconds)
        ended = found.state == 'done' or (found.state == 'failed' and not self._again(unit))
        if ended and self._is_kept(unit, found):
            return 'settled'
        if found.state == 'busy':
            return 'busy'
        missing = self._missing(unit.task)
        if missing and unit.seed is None:
            return 'settled'  # its seeds say why
        config = self.benchmark.config(unit.task)
        why = {'kind': _MISSING, 'reason': missing} if missing else None
        if unit.seed is not None and not missing:
            chosen = self._chosen(unit, config)
            if chosen is None:
                return 'busy'
            why = chosen if 'reason' in chosen else None
            hyper = {} if why else chosen
            config = replace(config, seed=unit.seed, search=False, **hyper)
        return self._work(unit, found, config, why)

    def _is_kept(self, unit: Unit, found: Tenure) -> bool:
        """Whether what a unit ended with is still there; looks once, and tells a lost row again."""
        if unit.folder in self.checked:
            return True
        assert found.path is not None
        if unit.seed is None:
            config = self.benchmark.config(unit.task)
            if found.state == 'done' and chosen_of(found.path, config) is None:
                self.say(f'{unit.name}: {found.path}/chosen.json is missing or damaged')
                return False
        else:
            why = read_failure(unit.folder) if found.state == 'failed' else None
            row = (
                self._failed_row(unit, why, {})
                if why
                else row_of(found.path, unit.task, self.benchmark.name, self._asked(unit))
            )
            if row is None:
                self.say(f'{unit.name}: {found.path}/result.json is missing or damaged')
                return False
            if not self.told.tells(row):
                self.say(f'{unit.name}: its row was lost; told again from {found.path}')
                config = self.benchmark.config(unit.task)
                self.told.add(replace(row, weights=self._weights(config)) if why else row)
        self.checked.add(unit.folder)
        return True

    def _work(
        self, unit: Unit, found: Tenure, config: RunConfig, why: dict[str, str] | None
    ) -> str:
        """Takes a unit and does it, or records at once why it can't be done."""
        lease = acquire(unit.folder, found)
        if lease is None:
            return 'busy'
        try:
            if why is None:
                why = self._try(unit, lease, config, anew=found.state == 'done')
            if why is not None and lease.held():
                self._fail(unit, lease, why)
        except BaseException as error:
            taken = isinstance(error, FileNotFoundError) and not lease.held()
            lease.release()
            if not taken:
                raise
        if not lease.finish('failed' if why else 'run'):
            self.say(f'{unit.name}: taken over by another process')
        return 'worked'

    def _try(
        self, unit: Unit, lease: Lease, config: RunConfig, anew: bool
    ) -> dict[str, str] | None:
        """Runs a unit in its directory; returns why it failed, None where it did not.

        `anew` says that it was done, and that what it ended with is damaged.
        """
        self.say(f'== {self.benchmark.run.method}, {unit.name}')
        try:
            if anew:
                for name in ('result.json', 'chosen.json'):
                    (lease.directory / name).unlink(missing_ok=True)
            settle(config, lease)
            if unit.seed is None:
                search(config, lease.directory, quiet=self.quiet)
                return None
            if named_task(unit.task) is None:  # the data that the search chose on
                check_kept(config, unit.folder.with_name(SEARCH) / 'run')
            run(config, lease.directory, quiet=self.quiet)
            row = from_workdir(lease.directory, unit.task, self.benchmark.name)
            if lease.held():
                rows.append(self.root / 'rows', replace(row, hyperparameters=self._asked(unit)))
            return None
        except Exception as error:
            text = traceback.format_exc()
            if lease.held():
                write_text(lease.directory / 'traceback.txt', text)
            reason = run_keys(' '.join(str(error).split()))[:1000]
            return {'kind': type(error).__name__, 'reason': f'{type(error).__name__}: {reason}'}

    def _fail(self, unit: Unit, lease: Lease, why: dict[str, str]) -> None:
        """Records a failure in the unit's directory and, of a run, in the table.

        Which data it had is left open, so that the row of a later success stands for this one too.
        """
        why = {**why, 'finished': _now()}
        self.say(f'{unit.name} failed: {why["reason"]}')
        write_json(lease.directory / 'failed.json', why)
        if unit.seed is None:
            return
        weights = self._weights(self.benchmark.config(unit.task))
        rows.append(self.root / 'rows', self._failed_row(unit, why, weights))

    def _failed_row(self, unit: Unit, why: dict[str, str], weights: dict[str, Any]) -> rows.Row:
        assert unit.seed is not None
        config = self.benchmark.config(unit.task)
        return rows.Row(
            task=unit.task,
            method=config.method,
            backbone=config.backbone,
            seed=unit.seed,
            benchmark=self.benchmark.name,
            options=options_of(config.to_dict()),
            weights=weights,
            hyperparameters=self._asked(unit),
            trained_on=config.train_on,
            status='failed',
            reason=why['reason'],
            finished=why['finished'],
        )

    def _asked(self, unit: Unit) -> dict[str, Any]:
        """Returns a row's hyperparameters: what was asked for, not what the search chose."""
        config = self.benchmark.config(unit.task)
        return {**hyperparameters_of(config.to_dict()), 'search_seed': config.seed}

    def _weights(self, config: RunConfig) -> dict[str, Any]:
        """Returns which weights a failed run had; {} where they can't be read."""
        if self.weights is None:
            try:
                identity = build_backbone(config).identity
                self.weights = identity.to_dict() if identity else {}
            except Exception:  # it may be what failed
                return {}
        return self.weights

    def _chosen(self, unit: Unit, config: RunConfig) -> dict[str, Any] | None:
        """Returns what a task's search chose, why it failed, or None while it goes on."""
        if not config.search:
            return {}
        folder = unit.folder.with_name(SEARCH)
        state = read_tenure(folder, self.dead_seconds).state
        if state == 'done':
            chosen = chosen_of(folder / 'run', config)
            if chosen is None:  # damaged since this process looked: the search does it again
                self.checked.discard(folder)
            return chosen
        if state == 'failed' and not self._again(Unit(unit.task, None, folder)):
            saved = read_failure(folder)
            return {'kind': _NOT_CHOSEN, 'reason': f'search: {saved["reason"]}'} if saved else None
        return None

    def _again(self, unit: Unit) -> bool:
        """Whether a failed unit is to be done again."""
        saved = read_failure(unit.folder)
        if saved is None:  # taken by another process just now
            return True
        if saved['kind'] == _MISSING:
            return not self._missing(unit.task)
        if saved['kind'] == _NOT_CHOSEN:
            folder = unit.folder.with_name(SEARCH)
            found = read_tenure(folder, self.dead_seconds)
            return found.state != 'failed' or self._again(Unit(unit.task, None, folder))
        return self.retry_failed and saved['finished'] < self.started

    def _missing(self, task: str) -> str:
        """Returns what of a task's data is missing and what to do, '' where all is there."""
        if task not in self.missing:
            self.missing[task] = ''
            if named_task(task) is None:
                return ''
            try:
                state = preflight.find_state(task, self.benchmark.run.input.data_dir or None)
            except (ValueError, OSError):  # the run will say what is wrong
                return ''
            if state.state in (preflight.MISSING, preflight.CONVERT):
                self.missing[task] = f'data missing: {state.detail}; {"; ".join(state.todo)}'
        return self.missing[task]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec='microseconds')
