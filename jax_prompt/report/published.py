"""The papers' tables as lines of a report."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from jax_prompt.report.papers import PAPERS, Figure, Groups
from jax_prompt.report.summary import Line, TableCell, all_tasks, mean_of, with_wins


def published(figures: Iterable[Figure], groups: Groups, benchmark: str) -> list[Line]:
    """Gathers the papers' lines of a benchmark that have at least one whole group.

    A printed mean stands as printed; one that is not printed is computed from the paper's own
    figures and says so. Lines of one method on one backbone are one line over a paper's tables.

    Args:
      figures: of the papers (`papers.load`).
      groups: tasks of each group.
      benchmark: the papers' name of the benchmark, a key of `papers.BENCHMARKS`.
    """
    found: dict[tuple[str, ...], list[Figure]] = {}
    for figure in figures:
        if figure.benchmark == benchmark and figure.metric == 'accuracy':
            found.setdefault(figure.line, []).append(figure)
    lines = [_line(own, groups) for own in found.values()]
    lines = [line for line in lines if any(cell.mean is not None for cell in line.groups.values())]
    full = {_where(line): line for line in lines if line.ours == 'full'}
    return [with_wins(line, full.get(_where(line)), groups) for line in lines]


def _where(line: Line) -> tuple[str, str, str]:
    return line.paper.split(' (')[0], line.backbone, line.weights


def _line(figures: list[Figure], groups: Groups) -> Line:
    first = figures[0]
    printed: dict[str, Figure] = {}
    for figure in figures:
        printed.setdefault(figure.task, figure)
    tables = sorted({figure.table.removeprefix('Table ') for figure in figures})
    tasks = {task: _cell(task, printed.get(task)) for task in all_tasks(groups)}
    means = {group: _group(group, groups, printed, tasks) for group in groups}
    counts = [figure.trainable_m for figure in figures if figure.trainable_m]
    return Line(
        label=first.method,
        paper=f'{PAPERS[first.paper].short} (Table {", ".join(tables)})',
        backbone=first.backbone,
        weights=first.pretraining,
        ours=first.ours,
        tasks=tasks,
        groups=means,
        mean=_overall(groups, tasks, means),
        mean_of_groups=replace(mean_of(list(means.values())), note='computed'),
        trainable=TableCell(holes=('not printed',)),
        trainable_head=TableCell(float(counts[0])) if counts else TableCell(holes=('not printed',)),
    )


def _cell(task: str, figure: Figure | None) -> TableCell:
    return TableCell(holes=(f'{task} (not printed)',)) if figure is None else _printed(figure)


def _printed(figure: Figure) -> TableCell:
    return TableCell(figure.value, note=figure.table)


def _group(
    group: str, groups: Groups, printed: Mapping[str, Figure], tasks: Mapping[str, TableCell]
) -> TableCell:
    if group in printed:
        return _printed(printed[group])
    return replace(mean_of([tasks[task] for task in groups[group]]), note='computed')


def _overall(
    groups: Groups, tasks: Mapping[str, TableCell], means: Mapping[str, TableCell]
) -> TableCell:
    """The mean over all tasks, from the tasks' figures or else from the groups' means."""
    cell = mean_of(list(tasks.values()))
    values = [cell.mean for cell in means.values()]
    if cell.mean is None and None not in values:
        sizes = [len(names) for names in groups.values()]
        total = sum(v * n for v, n in zip(values, sizes, strict=True) if v is not None)
        cell = TableCell(total / sum(sizes))
    return replace(cell, note='computed')
