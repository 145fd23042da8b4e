"""Writes the report of a benchmark: tables, plots, and the figures of the papers."""

import json
from collections.abc import Sequence
from pathlib import Path

from jax_prompt.core.files import whole_file
from jax_prompt.report import papers, rows
from jax_prompt.report.collect import from_workdir
from jax_prompt.report.escape import for_markdown
from jax_prompt.report.page import to_html
from jax_prompt.report.plots import draw
from jax_prompt.report.published import published
from jax_prompt.report.scatter import make_scatters
from jax_prompt.report.settings import by_settings
from jax_prompt.report.summary import belonging, measured
from jax_prompt.report.tables import make_tables, to_csv, to_latex, to_markdown


def write_report(
    results: Path,
    out: Path,
    benchmark: str = 'vtab',
    groups: papers.Groups | None = None,
    accuracy: str = 'last',
    reference: str = 'full',
) -> list[str]:
    """Writes a report.

    Args:
      results: a table of results.
      out: folder of what is written.
      benchmark: a name of `papers.BENCHMARKS`, or any other with groups.
      groups: tasks of each group; None: those of the benchmark.
      accuracy: 'last' or 'best_val'.
      reference: the method that wins are counted against.

    Returns:
      What should be known: rows that could not be read, failures, superseded rows.

    Raises:
      ValueError: the benchmark is unknown and no groups are given, or no row belongs to it.
    """
    groups = find_groups(results, benchmark, groups)
    table = rows.read(results)
    own = belonging(table.rows, groups, benchmark)
    ours = measured(own, groups, accuracy=accuracy, reference=reference)
    if not ours:
        raise ValueError(
            f'{results} holds {len(table.rows)} rows, none of a task of {benchmark}; its tasks: '
            f'{[task for names in groups.values() for task in names]}. {_in_rows(table.rows)}'
        )
    beside = published(papers.load(), groups, benchmark)
    tables = make_tables(ours, beside, groups, reference)
    scatters = make_scatters([*ours, *beside], groups)
    out.mkdir(parents=True, exist_ok=True)
    intro = _intro(own, accuracy)
    _write(out / 'report.html', to_html(f'Report: {benchmark}', intro, tables, scatters))
    head = [f'# Report: {for_markdown(benchmark)}\n', *(f'{for_markdown(x)}\n' for x in intro)]
    _write(out / 'report.md', '\n'.join([*head, *map(to_markdown, tables)]))
    _write(out / 'report.tex', '\n'.join(map(to_latex, tables)))
    _write(out / 'report.csv', to_csv([*ours, *beside]))
    draw(scatters, out)
    return [*_known(table), *_mixed(table.rows, groups, benchmark)]


def find_groups(results: Path, benchmark: str, groups: papers.Groups | None) -> papers.Groups:
    """Returns the groups of a benchmark: those given, or the papers'.

    Raises:
      ValueError: the benchmark is none of the papers' and no groups are given. The message lists
        the benchmarks that the rows name.
    """
    if groups is not None:
        return groups
    if benchmark in papers.BENCHMARKS:
        return papers.BENCHMARKS[benchmark]
    found = rows.read(results).rows if results.is_dir() else ()
    raise ValueError(
        f'benchmark is {benchmark!r}; allowed: {sorted(papers.BENCHMARKS)}, or any name with '
        f'--groups FILE. {_in_rows(found)}'
    )


def _in_rows(found: Sequence[rows.Row]) -> str:
    """Lists the benchmarks that rows name, with the groups file that shows the first."""
    tasks: dict[str, list[str]] = {}
    for row in found:
        tasks.setdefault(row.benchmark, []).append(row.task)
    if not tasks:
        return 'There are no rows'
    named = [f'{name or "no benchmark"} ({len(own)} rows)' for name, own in tasks.items()]
    first = next((name for name in tasks if name and name not in papers.BENCHMARKS), '')
    short = [task.removeprefix(f'{first}/') for task in tasks.get(first, ())]
    example = json.dumps({first: list(dict.fromkeys(short))}, ensure_ascii=False)
    way = f'. For {first}: --benchmark {first} --groups FILE, where FILE holds {example}'
    return f'The rows are of: {", ".join(named)}{way if first else ""}'


def collect(
    results: Path, workdirs: Sequence[Path], benchmark: str, groups: papers.Groups
) -> list[str]:
    """Adds finished run directories to a table of results, all of them or, on an error, none.

    Returns:
      The runs that were left out, as their tasks are not in the benchmark.

    Raises:
      FileNotFoundError, ValueError: a run is not finished, or has no test split.
    """
    found = [(workdir, from_workdir(workdir, benchmark=benchmark)) for workdir in workdirs]
    left_out = []
    for workdir, row in found:
        if belonging([row], groups, benchmark):
            rows.append(results, row)
        else:
            left_out.append(f'left out: {workdir}: {benchmark} has no task {row.task!r}')
    return left_out


def _mixed(found: Sequence[rows.Row], groups: papers.Groups, benchmark: str) -> list[str]:
    """Tells which files hold the runs of a cell that is a hole because their settings differ."""
    cells: dict[tuple[str, ...], list[rows.Row]] = {}
    for row in found:
        if row.status == 'done' and belonging([row], groups, benchmark):
            weights = str(row.weights.get('sha256', ''))
            cells.setdefault((row.label, row.task, row.backbone, weights), []).append(row)
    lines = []
    for (label, task, *_), own in cells.items():
        kinds = by_settings(own)
        for settings, part in kinds.items() if len(kinds) > 1 else ():
            names = ', '.join(f'{row.run_id}-*.json' for row in part)
            lines.append(
                f'mixed: {label}, {task}: {len(part)} of {len(own)} runs have {settings}. To '
                f'report the others, move these rows away: {names}'
            )
    return lines


def _intro(own: Sequence[rows.Row], accuracy: str) -> list[str]:
    done = [row for row in own if row.status == 'done']
    when = 'the last epoch' if accuracy == 'last' else 'the best validation epoch'
    machines = sorted({str(row.machine.get('device', 'unknown')) for row in done})
    packages = ('jax_prompt', 'jax', 'flax')
    versions = sorted(
        {' '.join(f'{name} {row.versions.get(name, "?")}' for name in packages) for row in done}
    )
    return [
        f'{len(done)} finished runs and {len(own) - len(done)} failed ones. Accuracies are '
        f'those of {when}, on the test split.',
        f'Devices: {"; ".join(machines)}. Versions: {"; ".join(versions)}.',
    ]


def _known(table: rows.Rows) -> list[str]:
    failed = [row for row in table.rows if row.status == 'failed']
    return [
        *table.problems,
        *(f'failed: {row.label}, {row.task}, seed {row.seed}: {row.reason}' for row in failed),
        *(
            f'superseded: {row.label}, {row.task}, seed {row.seed}, {row.status} {row.finished}'
            for row in table.superseded
        ),
    ]


def _write(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode())
