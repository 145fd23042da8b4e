"""A benchmark: a method on many tasks, each searched on val, then trained with several seeds.

A task has two kinds of units: one search, and one run for each seed. The search trains on train and
chooses on val; it reads no image of test. A run takes the hyperparameters that the search chose and
is tested once. Any number of processes can share a folder and divide the units (`core/lease.py`).
Each can be killed at any point. A folder holds

    rows/                                the table of results (`report/rows.py`)
    runs/TASK/METHOD-BACKBONE-DIGEST/    what was asked of a task, by a digest of its settings
        search/run/chosen.json           what its search chose
        seed_42/run/                     a run directory; seed_42/failed/ of one that failed

A unit's result is in the table before its directory gets its last name, so a unit that is done has
its row, and one that is killed in between adds the same row again, which is the same file. Rows
that were lost since are told again from the run directories (`retell.py`).
"""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from jax_prompt.core.lease import DEAD_SECONDS, read_tenure
from jax_prompt.core.renames import check_renames
from jax_prompt.data.subset_names import may_refit, whole_of
from jax_prompt.data.task import Task, View
from jax_prompt.data.tasks import find_task
from jax_prompt.methods import get_method
from jax_prompt.report import papers, rows
from jax_prompt.report.collect import hyperparameters_of, options_of
from jax_prompt.report.summary import belonging, measured
from jax_prompt.report.tables import make_tables, to_markdown
from jax_prompt.runs.config import RunConfig, resolve
from jax_prompt.runs.inputs import open_data
from jax_prompt.train.log import read_json
from jax_prompt.weights.fetch import weights_file

SEARCH = 'search'
_LONGEST = 255  # characters of a name, on most file systems


@dataclass(frozen=True)
class Benchmark:
    """What is run.

    Attributes:
      name: name of the benchmark, 'vtab' for example; its rows have it.
      tasks: the tasks; each is a value of a run's `data`, most often a named task.
      run: settings of every task; without `search` a run takes its `lr` and weight decays.
      seeds: seeds of the runs; the search takes the first of them.
      num_prompts: number of prompts P of tasks that do not take `run.num_prompts`.
      protocol_view: True shows images as the protocol of a task says (`Task.view`: resizing, crop,
        mirroring, mean and standard deviation); False shows them as `run` says.
    """

    name: str
    tasks: tuple[str, ...]
    run: RunConfig
    seeds: tuple[int, ...] = (0, 1, 2)
    num_prompts: Mapping[str, int] = field(default_factory=dict)
    protocol_view: bool = True

    def __post_init__(self):
        folders = [_slug(task) for task in self.tasks]
        if not self.tasks or len(set(folders)) < len(folders):
            raise ValueError(f'tasks are {self.tasks}; give at least one, each once')
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f'seeds are {self.seeds}; give at least one, each once')
        for seed in self.seeds:  # checked as a run's
            replace(self.run, seed=seed)
        for prompts in self.num_prompts.values():
            replace(self.run, num_prompts=prompts)
        for task in self.tasks:
            data = whole_of(task)
            # os.path: Path raises an error for a name that is too long for a file.
            there = os.path.exists(os.path.expanduser(data))
            if not (there or named_task(data) or data.startswith('tfds:')):
                find_task(data)

    def config(self, task: str) -> RunConfig:
        """Returns the settings of a task: with the seed of its search, and the search where asked.

        A subset that training on val would enlarge ('fewshot8/...') trains on train alone.
        """
        one, named = self.run, named_task(task)
        if self.protocol_view and named is not None and named.view is not None:
            one = as_shown(one, named.view)
        if not may_refit(task):
            one = replace(one, train_on='train', refit=False)
        prompts = self.num_prompts.get(task, one.num_prompts)
        return replace(one, data=task, seed=self.seeds[0], num_prompts=prompts)

    @property
    def groups(self) -> papers.Groups:
        """The tasks that a report expects, by group: the papers' for a benchmark of theirs."""
        if self.name in papers.BENCHMARKS:
            return papers.BENCHMARKS[self.name]
        found: dict[str, tuple[str, ...]] = {}
        for task in self.tasks:
            named = named_task(task)
            group = (named.group if named else '') or self.name
            found[group] = (*found.get(group, ()), task.removeprefix(f'{self.name}/'))
        return found


def resolve_benchmark(config: Mapping[str, Any]) -> Benchmark:
    """Turns a ConfigDict of `configs/` into a checked Benchmark.

    Raises:
      ValueError: a key that is unknown or missing, or a value that is not allowed.
    """
    known = ('name', 'tasks', 'run', 'seeds', 'num_prompts', 'protocol_view')
    values = dict(config)
    if set(values) != set(known):
        raise ValueError(f'a benchmark config has the keys {known}; this one {sorted(values)}')
    return Benchmark(
        name=values['name'],
        tasks=tuple(values['tasks']),
        run=resolve(values['run']),
        seeds=tuple(values['seeds']),
        num_prompts=dict(values['num_prompts']),
        protocol_view=values['protocol_view'],
    )


def as_shown(config: RunConfig, view: View) -> RunConfig:
    """Returns settings that show images as a protocol does."""
    options = replace(config.input, resize=view.resize, crop=view.crop, crop_ratio=view.crop_ratio)
    augment = replace(config.augment, crop=view.train_crop, flip=view.flip)
    model = replace(config.model, mean=view.mean, std=view.std)
    return replace(config, input=options, augment=augment, model=model)


def named_task(task: str) -> Task | None:
    """Returns the row of a named task, None of other data."""
    try:
        return find_task(task)
    except ValueError:
        return None


def run_keys(text: str) -> str:
    """Returns an error of a run with the keys that the run's settings have in a benchmark.

    >>> run_keys('pass it as --config.weights=FILE')
    'pass it as --config.run.weights=FILE'
    """
    return re.sub(r'--config\.(?!run\.)', '--config.run.', text)


def _slug(text: str) -> str:
    """Returns a text as the name of a folder. Of a long one the end is kept, and a digest."""
    name = re.sub(r'[^A-Za-z0-9_.]+', '_', text).strip('._')
    if len(name) <= _LONGEST:
        return name
    return f'{name[-200:].lstrip("._")}-{sha256(text.encode()).hexdigest()[:12]}'


class Unit(NamedTuple):
    """A search, or a run of one seed.

    Attributes:
      task: its task.
      seed: its seed; None of a search.
      folder: where it lies.
    """

    task: str
    seed: int | None
    folder: Path

    @property
    def name(self) -> str:
        """'vtab/dtd search' or 'vtab/dtd seed 42'."""
        return f'{self.task} {SEARCH if self.seed is None else f"seed {self.seed}"}'


class Standing(NamedTuple):
    """How a unit stands: 'done', 'failed', 'busy' or 'to do', and why or who."""

    unit: Unit
    state: str
    detail: str = ''


def units_of(benchmark: Benchmark, root: Path) -> list[Unit]:
    """Lists the units of a benchmark, a task's search before its runs."""
    units = []
    for task in benchmark.tasks:
        config = benchmark.config(task)
        values, weights = config.to_dict(), Path(config.weights).name
        asked = [hyperparameters_of(values), options_of(values), config.seed, weights]
        digest = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
        name = _slug(f'{config.method}-{config.backbone}').replace('+', '_')
        folder = root / 'runs' / _slug(task) / f'{name}-{digest}'
        units += [Unit(task, None, folder / SEARCH)] if config.search else []
        units += [Unit(task, seed, folder / f'seed_{seed}') for seed in benchmark.seeds]
    return units


def standing(
    benchmark: Benchmark, root: Path, dead_seconds: float = DEAD_SECONDS
) -> list[Standing]:
    """Tells how each unit stands; changes nothing."""
    out = []
    for unit in units_of(benchmark, root):
        found = read_tenure(unit.folder, dead_seconds)
        if found.state == 'failed':
            saved = read_failure(unit.folder) or {'reason': 'unknown'}
            out.append(Standing(unit, 'failed', saved['reason']))
        elif found.state == 'busy':
            text = f'{found.owner}, last sign {found.age:.0f} s ago'
            nobody = f'{unit.folder} names no process; if none works there, remove it'
            out.append(Standing(unit, 'busy', text if found.owner else nobody))
        else:
            detail = 'begun' if found.state == 'free' else ''
            out.append(Standing(unit, 'done' if found.state == 'done' else 'to do', detail))
    return out


def show(stands: Sequence[Standing]) -> str:
    """Lists units with their states, and counts them."""
    lines = [f'{s.state:<6} {s.unit.name}{f": {s.detail}" if s.detail else ""}' for s in stands]
    counts = Counter(s.state for s in stands)
    return '\n'.join([*lines, ', '.join(f'{n} {state}' for state, n in counts.items())])


def check_ready(benchmark: Benchmark, root: Path) -> None:
    """Checks what every unit needs, before anything is trained.

    Raises:
      FileNotFoundError: the backbone's weights are not there.
      ValueError: a task has no test images, so its results could not be reported; or the folder of
        results can't hold leases.
    """
    check_renames(root)
    check_tests(benchmark)
    if get_method(benchmark.run.method).pretrained:
        try:
            weights_file(benchmark.run.backbone, benchmark.run.weights)
        except FileNotFoundError as error:
            raise FileNotFoundError(run_keys(str(error))) from error


def check_tests(benchmark: Benchmark) -> None:
    """Checks that each task has test images, before anything is trained.

    Raises:
      ValueError: names the tasks that have none.
    """
    without = []
    for task in benchmark.tasks:
        if named_task(task) is not None:
            continue  # these always have
        try:
            source = open_data(benchmark.config(task), task)
        except (ValueError, OSError):  # the run will say what is wrong
            continue
        without += [] if 'test' in source.splits else [task]
    if without:
        raise ValueError(
            f'tasks {without} have no test images, and a benchmark reports the accuracy on test: '
            'add a test folder (a pack: split 2), or set config.run.input.test_fraction'
        )


def read_failure(folder: Path) -> dict[str, str] | None:
    """Returns why a unit failed, {'kind', 'reason', 'finished'}.

    None where it has not, where another process has just taken it to do it again, and where the
    record of it is damaged.
    """
    try:
        saved = read_json(folder / 'failed' / 'failed.json', f'remove {folder} and start again')
    except (FileNotFoundError, ValueError):
        return None
    whole = isinstance(saved, dict) and {'kind', 'reason', 'finished'} <= saved.keys()
    return saved if whole else None


def table_of(benchmark: Benchmark, root: Path) -> str:
    """Returns the results of a benchmark so far as Markdown, '' without any.

    Holes are named, and rows that can't be read.
    """
    if not (root / 'rows').is_dir():
        return ''
    table = rows.read(root / 'rows')
    own = belonging(table.rows, benchmark.groups, benchmark.name)
    tables = make_tables(measured(own, benchmark.groups), [], benchmark.groups) if own else []
    wrong = [f'not in the tables: {root / "rows"}/{problem}' for problem in table.problems]
    return '\n'.join([*map(to_markdown, tables), *wrong])
