"""Writes the report of a benchmark: tables, plots, and the papers' figures beside the measured.

    python launch/report.py --results runs/results --benchmark vtab --out runs/report

`--results` is a table of results (`jax_prompt/evals/rows.py`). Finished run directories become rows
of it with `--collect`:

    python launch/report.py --results runs/results --collect runs/vtab/*/* --benchmark vtab

Written are report.html (one page that needs nothing else), report.md, report.tex, report.csv, and,
where matplotlib is installed (pip install 'jax-prompt[quickstart]'), each plot as .pdf and .png.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jax_prompt.core.files import whole_file
from jax_prompt.door import enter, user_path
from jax_prompt.evals import papers, rows
from jax_prompt.evals.collect import from_workdir
from jax_prompt.evals.page import to_html
from jax_prompt.evals.published import published
from jax_prompt.evals.report import belonging, measured
from jax_prompt.evals.scatter import HEIGHT, WIDTH, Scatter, make_scatters, place_labels
from jax_prompt.evals.tables import make_tables, to_csv, to_latex, to_markdown


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
    if groups is None:
        if benchmark not in papers.BENCHMARKS:
            raise ValueError(
                f'benchmark is {benchmark!r}; allowed: {sorted(papers.BENCHMARKS)}, or any name '
                'with --groups'
            )
        groups = papers.BENCHMARKS[benchmark]
    table = rows.read(results)
    own = belonging(table.rows, groups, benchmark)
    ours = measured(own, groups, accuracy=accuracy, reference=reference)
    if not ours:
        raise ValueError(
            f'{results} holds {len(table.rows)} rows, none of a task of {benchmark}; its tasks: '
            f'{[task for names in groups.values() for task in names]}'
        )
    beside = published(papers.load(), groups, benchmark)
    tables = make_tables(ours, beside, groups, reference)
    scatters = make_scatters([*ours, *beside], groups)
    out.mkdir(parents=True, exist_ok=True)
    intro = _intro(own, accuracy)
    _write(out / 'report.html', to_html(f'Report: {benchmark}', intro, tables, scatters))
    head = [f'# Report: {benchmark}\n', *(f'{text}\n' for text in intro)]
    _write(out / 'report.md', '\n'.join([*head, *map(to_markdown, tables)]))
    _write(out / 'report.tex', '\n'.join(map(to_latex, tables)))
    _write(out / 'report.csv', to_csv([*ours, *beside]))
    draw(scatters, out)
    return _known(table)


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


def _known(table: rows.Table) -> list[str]:
    failed = [row for row in table.rows if row.status == 'failed']
    return [
        *table.problems,
        *(f'failed: {row.label}, {row.task}, seed {row.seed}: {row.reason}' for row in failed),
        *(
            f'superseded: {row.label}, {row.task}, seed {row.seed}, {row.status} {row.finished}'
            for row in table.superseded
        ),
    ]


def draw(scatters: Sequence[Scatter], out: Path) -> None:
    """Draws the plots as .pdf and .png, where matplotlib is installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        print("no .pdf and .png plots: pip install 'jax-prompt[quickstart]'", file=sys.stderr)
        return
    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    for scatter in scatters:
        figure, axes = plt.subplots(figsize=(6.5, 4), layout='constrained')
        for kind, marker, colour in (('papers', 's', 'C1'), ('measured', 'o', 'C0')):
            points = [p for p in scatter.points if bool(p.paper) == (kind == 'papers')]
            if not points:
                continue
            xs, ys = [p.x for p in points], [p.y for p in points]
            spread = [p.sd or 0.0 for p in points]
            fill = {} if kind == 'measured' else {'markerfacecolor': 'none', 'elinewidth': 0}
            size = 4 if kind == 'measured' else 7
            axes.errorbar(
                xs, ys, spread, fmt=marker, color=colour, markersize=size, label=kind, **fill
            )
        axes.set(xlabel=scatter.x_name, ylabel=scatter.y_name, xscale='log')
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        axes.margins(0.08)
        figure.canvas.draw()  # the layout is settled, so labels can be placed
        across, down = (n / side for n, side in zip((WIDTH, HEIGHT), figure.bbox.size, strict=True))
        pixels = axes.transData.transform([(p.x, p.y) for p in scatter.points])
        places = [(across * x, HEIGHT - down * y) for x, y in pixels]
        for point, spot in zip(scatter.points, place_labels(scatter.points, places), strict=True):
            if spot is not None:
                name = point.short.replace('$', r'\$')
                at = (spot[0] / WIDTH, 1 - spot[1] / HEIGHT)
                axes.annotate(name, at, xycoords='figure fraction', fontsize=7)
        for suffix in ('pdf', 'png'):
            figure.savefig(out / f'{scatter.name}.{suffix}', dpi=150)
        plt.close(figure)


def _write(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode())


def main() -> None:
    """Adds runs to the table of results if asked, and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('--results', type=user_path, required=True, help='folder of the results')
    parser.add_argument(
        '--out', type=user_path, default=Path('runs/report'), help='folder to write'
    )
    parser.add_argument('--benchmark', default='vtab', help='vtab, fgvc, lion, longtail, fewshot')
    parser.add_argument('--groups', type=user_path, help='JSON file: {group: [task, ...]}')
    parser.add_argument('--accuracy', default='last', choices=('last', 'best_val'))
    parser.add_argument('--reference', default='full', help='method that wins are counted against')
    parser.add_argument(
        '--collect', type=user_path, nargs='*', default=[], help='finished run directories to add'
    )
    args = parser.parse_args()
    for workdir in args.collect:
        rows.append(args.results, from_workdir(workdir, benchmark=args.benchmark))
    groups = None
    if args.groups:
        read = json.loads(args.groups.read_text(encoding='utf-8'))
        groups = {name: tuple(tasks) for name, tasks in read.items()}
    for line in write_report(
        args.results, args.out, args.benchmark, groups, args.accuracy, args.reference
    ):
        print(line)
    print(f'report: {args.out / "report.html"}')


if __name__ == '__main__':
    enter(main)
