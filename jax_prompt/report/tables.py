"""Tables of a report, and how they are written: Markdown, LaTeX, CSV."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from jax_prompt.report.escape import for_csv, for_latex, for_latex_comment, for_markdown
from jax_prompt.report.papers import Groups
from jax_prompt.report.summary import Line, TableCell, Wins, all_tasks

HOLE = '\u2013'  # an en dash
MIXED = '†'  # after a mean over tasks whose runs have different settings
_NAMED = 3  # a cell names as many missing tasks; more are counted there and named below the table


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
      name: for file names and anchors.
      title: what it shows.
      head: column names.
      body: rows of texts; the first column names the row.
      notes: sentences below it.
    """

    name: str
    title: str
    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def make_tables(
    ours: Sequence[Line], papers: Sequence[Line], groups: Groups, reference: str = 'full'
) -> list[Table]:
    """Lays out a report: summary, tasks of each group, cost, ours beside the papers, holes.

    Where all measured lines share backbone and weights, a note says so in place of two columns.
    """
    tables = [_summary('summary', 'Measured', ours, groups, reference)]
    tables += [_tasks(group, ours, groups) for group in groups]
    tables += [_cost(ours), _beside(ours, papers, groups)]
    tables += [_summary('papers', 'Papers', papers, groups, 'Full')]
    tables += [_tasks(group, papers, groups) for group in groups]
    tables = [table for table in [*tables, _holes(ours)] if table.body]
    if len({_name(line)[1:] for line in ours}) > 1:
        return tables
    return [table if table.name.startswith('papers') else _shared(table) for table in tables]


def _shared(table: Table) -> Table:
    """Moves the backbone and its weights, columns 1 and 2, into a note."""
    backbone, weights = table.body[0][1:3]
    return replace(
        table,
        head=(table.head[0], *table.head[3:]),
        body=tuple((row[0], *row[3:]) for row in table.body),
        notes=(*table.notes, f'Backbone: {backbone}; weights: {weights}.'),
    )


def show(cell: TableCell, digits: int = 2) -> str:
    """Formats a value with its spread, or a hole with what it misses.

    >>> show(TableCell(79.9, 0.351, 3))
    '79.90 ± 0.35'
    """
    if cell.mean is None:
        names = [hole.split(' (')[0] for hole in cell.holes]
        if len(names) > _NAMED:
            return f'{HOLE} (misses {len(names)}: {names[0]}, …)'
        return f'{HOLE} (misses: {", ".join(names)})' if names else HOLE
    spread = '' if cell.sd is None else f' ± {cell.sd:.{digits}f}'
    computed = '*' if cell.note == 'computed' else ''
    return f'{cell.mean:.{digits}f}{spread}{computed}{MIXED if cell.mixed else ""}'


def _wins(wins: Wins | None) -> str:
    if wins is None:
        return HOLE
    return f'{wins.won} of {wins.compared}' + (
        '' if wins.compared == wins.total else f' ({wins.total - wins.compared} not compared)'
    )


def _name(line: Line) -> tuple[str, ...]:
    return line.label, line.backbone, line.weights


def _summary(name: str, title: str, lines: Sequence[Line], groups: Groups, reference: str) -> Table:
    paper = name == 'papers'
    columns: list[tuple[str, Callable[[Line], str]]] = [
        ('method', lambda line: line.label),
        ('backbone', lambda line: line.backbone),
        ('weights', lambda line: line.weights),
        *([('paper', lambda line: line.paper)] if paper else []),
        *(
            (f'{group} ({len(tasks)})', lambda line, group=group: show(line.groups[group]))
            for group, tasks in groups.items()
        ),
    ]
    if len(groups) > 1:
        columns += [
            (f'mean of {len(all_tasks(groups))}', lambda line: show(line.mean)),
            (f'mean of {len(groups)} groups', lambda line: show(line.mean_of_groups)),
        ]
    columns.append((f'wins against {reference}', lambda line: _wins(line.wins.get(''))))
    if paper:
        columns.append(('printed count (M)', lambda line: _bare(line.trainable_head, 2)))
    else:
        columns += [
            ('trained (M)', lambda line: _bare(line.trainable, 4)),
            ('with head (M)', lambda line: _bare(line.trainable_head, 4)),
            ('seeds', lambda line: line.seeds),
        ]
    head = tuple(column for column, _ in columns)
    body = tuple(tuple(cell(line) for _, cell in columns) for line in lines)
    notes = ['Test accuracy in %: mean ± sample standard deviation over seeds.']
    if paper:
        notes = ['Test accuracy in %. * computed from the figures of the same paper.']
    notes += _mixed(lines, lambda line: (*line.groups.values(), line.mean))
    notes += [_at_edge(line) for line in lines if line.edges]
    return Table(name, f'{title}: means of groups', head, body, tuple(notes))


def _at_edge(line: Line) -> str:
    """Says where a search chose the end of a grid, so that a better value may lie beyond."""
    parts = [f'the {name} of its grid on {", ".join(on)}' for name, on in line.edges.items()]
    return f'The search of {line.label} chose {"; ".join(parts)}: a better value may lie beyond.'


def _bare(cell: TableCell, digits: int) -> str:
    return HOLE if cell.mean is None else f'{cell.mean:,.{digits}f}{MIXED if cell.mixed else ""}'


def _mixed(lines: Sequence[Line], cells: Callable[[Line], Iterable[TableCell]]) -> tuple[str, ...]:
    """Says of each line whose means are marked in which settings its tasks differ."""
    found = []
    for line in lines:
        names = dict.fromkeys(name for cell in cells(line) for name in cell.mixed)
        if names:
            found.append(f'{line.label}: {", ".join(names)}')
    told = 'The tasks of this mean were run with different settings.'
    return (f'{MIXED} {told} {"; ".join(dict.fromkeys(found))}.',) if found else ()


def _tasks(group: str, lines: Sequence[Line], groups: Groups) -> Table:
    paper = bool(lines) and bool(lines[0].paper)
    tasks = groups[group]
    body = [
        (
            *_name(line),
            *((line.paper,) if paper else ()),
            *(show(line.tasks[t]) if line.tasks[t].mean is not None else HOLE for t in tasks),
            show(line.groups[group]),
        )
        for line in lines
        if any(line.tasks[task].mean is not None for task in tasks)
    ]
    head = ('method', 'backbone', 'weights', *(('paper',) if paper else ()), *tasks, 'mean')
    kind = 'papers' if paper else 'measured'
    slug = ''.join(c if c.isalnum() else '_' for c in group.lower())
    notes = _mixed(lines, lambda line: (line.groups[group],))
    return Table(f'{kind}_{slug}', f'{kind.capitalize()}: {group}', head, tuple(body), notes)


def _cost(lines: Sequence[Line]) -> Table:
    body = [
        (
            *_name(line),
            _bare(line.seconds, 1),
            _bare(line.images_per_second, 1),
            _bare(line.peak_memory_mb, 0),
        )
        for line in lines
    ]
    head = ('method', 'backbone', 'weights', 'seconds a run', 'images/s', 'peak memory (MB)')
    told = f'Means over all tasks and seeds; {HOLE} if a task is missing.'
    notes = (told, *_mixed(lines, lambda line: (line.seconds,)))
    return Table('cost', 'Measured: time and memory', head, tuple(body), notes)


def _beside(ours: Sequence[Line], papers: Sequence[Line], groups: Groups) -> Table:
    body = []
    for line in ours:
        for paper in papers:
            pairs = [(line.groups[g].mean, paper.groups[g].mean) for g in groups]
            marks = [MIXED if line.groups[g].mixed else '' for g in groups]
            if paper.ours != line.label or all(None in pair for pair in pairs):
                continue
            cells = [
                HOLE
                if mine is None or theirs is None
                else f'{mine:.2f}{mark} / {theirs:.2f} ({mine - theirs:+.2f})'
                for (mine, theirs), mark in zip(pairs, marks, strict=True)
            ]
            body.append((*_name(line), f'{paper.label}, {paper.paper}, {paper.weights}', *cells))
    head = ('method', 'backbone', 'weights', 'paper', *groups)
    told = 'Measured / printed (difference). Backbone and pretraining may differ.'
    notes = (told, *_mixed(ours, lambda line: line.groups.values()))
    return Table('beside', 'Measured beside printed', head, tuple(body), notes)


def _holes(lines: Sequence[Line]) -> Table:
    body = [
        (*_name(line), hole)
        for line in lines
        for cell in line.tasks.values()
        for hole in cell.holes
    ]
    return Table('holes', 'Missing', ('method', 'backbone', 'weights', 'task'), tuple(body))


def to_markdown(table: Table) -> str:
    """Writes a table as Markdown."""
    rows = [table.head, ('---',) * len(table.head), *table.body]
    lines = ['| ' + ' | '.join(map(for_markdown, row)) + ' |' for row in rows]
    notes = [f'\n{for_markdown(note)}' for note in table.notes]
    return '\n'.join([f'## {for_markdown(table.title)}', '', *lines, *notes, ''])


def to_latex(table: Table) -> str:
    """Writes a table as LaTeX with booktabs."""
    words = sum(name in ('method', 'backbone', 'weights', 'paper', 'task') for name in table.head)
    columns = 'l' * words + 'r' * (len(table.head) - words)
    rows = [' & '.join(map(for_latex, row)) + r' \\' for row in table.body]
    return '\n'.join(
        [
            rf'% {for_latex_comment(table.title)}; needs \usepackage{{booktabs}}',
            rf'\begin{{tabular}}{{@{{}}{columns}@{{}}}}',
            r'\toprule',
            ' & '.join(map(for_latex, table.head)) + r' \\',
            r'\midrule',
            *rows,
            r'\bottomrule',
            r'\end{tabular}',
            *(f'% {for_latex_comment(note)}' for note in table.notes),
            '',
        ]
    )


_COLUMNS = (
    *('method', 'backbone', 'weights', 'paper', 'quantity', 'name', 'mean', 'sd', 'seeds'),
    *('holes', 'note'),
)


def to_csv(lines: Sequence[Line]) -> str:
    """Writes all values of lines as CSV, one a row, at full precision; holes are named in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow(_COLUMNS)
    for line in lines:
        for quantity, name, cell in _cells(line):
            mean, sd = ('' if v is None else repr(v) for v in (cell.mean, cell.sd))
            texts = map(for_csv, (*_name(line), line.paper, quantity, name))
            holes = for_csv('; '.join(cell.holes))
            mixed = f'settings differ: {", ".join(cell.mixed)}' if cell.mixed else ''
            note = for_csv('; '.join(filter(None, (cell.note, mixed))))
            writer.writerow((*texts, mean, sd, cell.count or '', holes, note))
    return out.getvalue()


def _cells(line: Line) -> list[tuple[str, str, TableCell]]:
    cells = [('accuracy (%)', task, cell) for task, cell in line.tasks.items()]
    cells += [('accuracy (%)', group, cell) for group, cell in line.groups.items()]
    cells += [
        ('accuracy (%)', f'mean of {len(line.tasks)}', line.mean),
        ('accuracy (%)', f'mean of {len(line.groups)} groups', line.mean_of_groups),
        ('trained parameters (M)', 'without head', line.trainable),
        ('trained parameters (M)', 'with head', line.trainable_head),
        ('seconds', 'a run', line.seconds),
        ('images/s', 'training', line.images_per_second),
        ('peak memory (MB)', 'a run', line.peak_memory_mb),
    ]
    return [(quantity, name, cell) for quantity, name, cell in cells if cell != TableCell()]
