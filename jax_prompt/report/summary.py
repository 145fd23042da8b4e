"""What the table of results says of a benchmark: cells, groups, wins, and the papers beside.

A mean stands only for what its name says. Where a task is missing, its group's mean, the mean of
all tasks and the mean of the groups are holes that name the task; nothing is averaged over fewer
tasks. Where the seeds of a cell were run with different settings, the cell is a hole too. Where the
tasks of a mean were run with different settings, the mean names them (`TableCell.mixed`).
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jax_prompt.methods import METHODS
from jax_prompt.report.papers import Groups
from jax_prompt.report.rows import Row
from jax_prompt.report.settings import differing, edges_of, in_words


@dataclass(frozen=True)
class TableCell:
    """One value of a report, or a hole.

    Attributes:
      mean: the value; None is a hole.
      sd: sample standard deviation over seeds (n - 1); None for one seed, and where the tasks of a
        mean have different seeds.
      count: seeds of the value; of a mean over tasks the fewest.
      holes: what is missing, 'task (why)' each.
      note: where a paper's value stands, or that it is computed from the paper's others.
      mixed: of a mean over tasks, the settings in which their runs differ.
    """

    mean: float | None = None
    sd: float | None = None
    count: int = 0
    holes: tuple[str, ...] = ()
    note: str = ''
    mixed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wins:
    """How often a method is better than the reference.

    Attributes:
      won: tasks with a higher mean accuracy.
      compared: tasks that both have.
      total: tasks there are.
    """

    won: int
    compared: int
    total: int


@dataclass(frozen=True)
class Line:
    """All of one method on one backbone.

    Attributes:
      label: the method, with its options.
      paper: 'SPT (Table 2, S3)' for a paper's line, '' for a measured one.
      backbone: `arch.tag`, or as the paper names it.
      weights: source and checksum of the weights, or the paper's words for the pretraining.
      ours: the label of a paper's method here, '' for none; of a measured line its own.
      tasks: accuracy in % by task.
      groups: accuracy in % by group.
      mean: accuracy in %, the mean over all tasks.
      mean_of_groups: accuracy in %, the mean over the groups' means.
      wins: against the reference, by group, and of all under ''; {} for the reference itself.
      trainable: trained parameters without the head's, in millions, the mean over all tasks.
      trainable_head: the same with the head's.
      seconds: of a run, the mean over all tasks.
      images_per_second: of training, likewise.
      peak_memory_mb: likewise.
      seeds: '3', or '1-3' where tasks differ.
      edges: what the search chose at an end of its grid, 'highest lr' for example, with the tasks
        where it did.
    """

    label: str
    paper: str
    backbone: str
    weights: str
    ours: str
    tasks: Mapping[str, TableCell]
    groups: Mapping[str, TableCell]
    mean: TableCell
    mean_of_groups: TableCell
    wins: Mapping[str, Wins] = field(default_factory=dict)
    trainable: TableCell = TableCell()
    trainable_head: TableCell = TableCell()
    seconds: TableCell = TableCell()
    images_per_second: TableCell = TableCell()
    peak_memory_mb: TableCell = TableCell()
    seeds: str = ''
    edges: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def belonging(rows: Iterable[Row], groups: Groups, benchmark: str) -> list[Row]:
    """Picks the rows on the test split of a benchmark's tasks.

    A row that names a benchmark belongs to that alone; one that names none goes by its task. The
    task 'vtab/dtd' is the task 'dtd' of vtab.
    """
    tasks = all_tasks(groups)
    short = [replace(row, task=row.task.removeprefix(f'{benchmark}/')) for row in rows]
    return [
        row
        for row in short
        if row.task in tasks and row.split == 'test' and row.benchmark in ('', benchmark)
    ]


def measured(
    rows: Iterable[Row],
    groups: Groups,
    *,
    accuracy: str = 'last',
    reference: str = 'full',
) -> list[Line]:
    """Summarises the rows of a benchmark, a line a method, backbone and weights.

    Args:
      rows: one a run, as `belonging` finds them.
      groups: tasks of each group.
      accuracy: 'last', after the last epoch, or 'best_val', of the best validation epoch.
      reference: the method that wins are counted against, on the same backbone and weights.

    Raises:
      ValueError: an unknown choice of accuracy, or a task that stands in two groups.
    """
    names = {'last': 'accuracy', 'best_val': 'accuracy_best_val'}
    if accuracy not in names:
        raise ValueError(f'accuracy is {accuracy!r}; allowed: {sorted(names)}')
    all_tasks(groups)
    found: dict[tuple[str, str, str], dict[str, list[Row]]] = {}
    for row in rows:
        key = (row.label, row.backbone, _weights(row.weights))
        found.setdefault(key, {}).setdefault(row.task, []).append(row)
    lines = [_line(key, cells, groups, names[accuracy]) for key, cells in found.items()]
    lines.sort(key=_order)
    full = {(line.backbone, line.weights): line for line in lines if line.label == reference}
    return [with_wins(line, full.get((line.backbone, line.weights)), groups) for line in lines]


def _order(line: Line) -> tuple[str, str, int, str]:
    """Sorts by backbone, weights, and place in the table of methods."""
    first = line.label.split('(')[0].split('+')[0]
    place = list(METHODS).index(first) if first in METHODS else len(METHODS)
    return line.backbone, line.weights, place, line.label


def all_tasks(groups: Groups) -> list[str]:
    """Lists the tasks of all groups.

    Raises:
      ValueError: a task stands in two groups, or there is none.
    """
    tasks = [task for names in groups.values() for task in names]
    twice = sorted({task for task in tasks if tasks.count(task) > 1})
    if twice or not tasks:
        raise ValueError(f'groups hold {twice or "no task"}; each task stands in one group')
    return tasks


def _weights(identity: Mapping[str, Any]) -> str:
    return f'{identity["source"]} {identity["sha256"][:8]}' if identity else 'none'


def _line(
    key: tuple[str, str, str], found: Mapping[str, list[Row]], groups: Groups, name: str
) -> Line:
    tasks = all_tasks(groups)
    clean = {task: _seeds(found.get(task, []), name) for task in tasks}

    def per_task(value: Callable[[Row], float | None]) -> dict[str, TableCell]:
        return {task: _cell(task, *clean[task], value) for task in tasks}

    def mean(
        cells: Sequence[TableCell], by_seed: Sequence[Mapping], names: Sequence[str]
    ) -> TableCell:
        cell, own = mean_of(cells, by_seed), [row for task in names for row in clean[task][0]]
        if cell.mean is None:
            return cell
        # Each task has data of its own, so that data may differ.
        return replace(cell, mixed=differing(own, besides=('data', 'benchmark')))

    def overall(value: Callable[[Row], float | None]) -> TableCell:
        return mean(list(per_task(value).values()), (), tasks)

    def percent(row: Row) -> float | None:
        value = getattr(row, name)
        return None if value is None else 100.0 * value

    cells = per_task(percent)
    by_seed = {
        task: {row.seed: 100.0 * getattr(row, name) for row in clean[task][0]} for task in tasks
    }
    means = {
        group: mean([cells[t] for t in names], [by_seed[t] for t in names], names)
        for group, names in groups.items()
    }
    counts = sorted({cell.count for cell in cells.values() if cell.count}) or [0]
    return Line(
        label=key[0],
        paper='',
        backbone=key[1],
        weights=key[2],
        ours=key[0],
        tasks=cells,
        groups=means,
        mean=mean(list(cells.values()), list(by_seed.values()), tasks),
        mean_of_groups=mean(list(means.values()), _seed_means(groups, by_seed), tasks),
        trainable=overall(lambda r: _millions(r.num_trainable, r.num_trainable_head)),
        trainable_head=overall(lambda r: _millions(r.num_trainable, 0)),
        seconds=overall(lambda r: r.seconds),
        images_per_second=overall(lambda r: r.images_per_second),
        peak_memory_mb=overall(lambda r: r.peak_memory_mb),
        seeds='-'.join(str(count) for count in dict.fromkeys((counts[0], counts[-1]))),
        edges=edges_of({task: rows for task, (rows, _) in clean.items()}),
    )


def _millions(total: int | None, head: int | None) -> float | None:
    return None if total is None or head is None else (total - head) / 1e6


def _seeds(rows: Sequence[Row], name: str) -> tuple[list[Row], str]:
    """Returns the runs of a cell, one a seed, or none and why."""
    done = [row for row in rows if row.status == 'done' and getattr(row, name) is not None]
    if not done:
        failed = sorted({row.reason for row in rows if row.status == 'failed'})
        blind = 'has no validation epochs' if rows else 'not run'
        return [], f'failed: {"; ".join(failed)}' if failed else blind
    mixed = differing(done)
    if mixed:
        return [], f'mixes runs that differ in {in_words(mixed)}'
    return done, ''


def _cell(task: str, rows: list[Row], why: str, value: Callable[[Row], float | None]) -> TableCell:
    values = [v for v in map(value, rows) if v is not None]
    if not rows or len(values) < len(rows):
        return TableCell(holes=(f'{task} ({why or "not recorded"})',))
    sd = statistics.stdev(values) if len(values) > 1 else None
    return TableCell(statistics.fmean(values), sd, len(values))


def mean_of(cells: Sequence[TableCell], by_seed: Sequence[Mapping[int, float]] = ()) -> TableCell:
    """Averages cells, or names their holes.

    Args:
      cells: what is averaged.
      by_seed: for the spread, each cell's value by seed. The spread is that of the seeds' own
        means, and only there where all cells have the same seeds.
    """
    holes = tuple(dict.fromkeys(hole for cell in cells for hole in cell.holes))
    values = [cell.mean for cell in cells if cell.mean is not None]
    if holes or len(values) < len(cells):
        return TableCell(holes=holes)
    sd = None
    seeds = set(by_seed[0]) if by_seed else set()
    if len(seeds) > 1 and all(set(one) == seeds for one in by_seed):
        sd = statistics.stdev(statistics.fmean(one[seed] for one in by_seed) for seed in seeds)
    return TableCell(statistics.fmean(values), sd, min(cell.count for cell in cells))


def _seed_means(groups: Groups, by_seed: Mapping[str, Mapping[int, float]]) -> list[dict]:
    """Returns each group's mean by seed; {} where its tasks have different seeds."""
    out = []
    for names in groups.values():
        own = [by_seed[task] for task in names]
        same = all(set(one) == set(own[0]) for one in own)
        out.append(
            {seed: statistics.fmean(one[seed] for one in own) for seed in own[0]} if same else {}
        )
    return out


def with_wins(line: Line, full: Line | None, groups: Groups) -> Line:
    """Counts a line's wins against another, on the tasks that both have."""
    if full is None or full is line:
        return line
    wins = {group: _wins(line, full, names) for group, names in groups.items()}
    return replace(line, wins={**wins, '': _wins(line, full, all_tasks(groups))})


def _wins(line: Line, full: Line, tasks: Sequence[str]) -> Wins:
    pairs = [
        (mine, other)
        for mine, other in ((line.tasks[t].mean, full.tasks[t].mean) for t in tasks)
        if mine is not None and other is not None
    ]
    return Wins(sum(mine > other for mine, other in pairs), len(pairs), len(tasks))
