"""Writes the report of a benchmark: tables, plots, and the figures of the papers.

    jax-prompt report --results runs/vtab --benchmark vtab --out runs/report

`--results` is the folder that `jax-prompt benchmark --results` wrote, or a table of results
(`jax_prompt/report/rows.py`). `--collect` adds finished run directories to it:

    jax-prompt report --results runs/results --collect runs/vtab/*/* --benchmark vtab

The command writes report.html (one page that needs no other file), report.md, report.tex and
report.csv. It also writes each plot as .pdf and .png if matplotlib is installed (pip install
'jax-prompt[quickstart]').
"""

import json
from collections.abc import Sequence
from pathlib import Path

from jax_prompt.cli.parser import make_parser
from jax_prompt.core.printable import printable
from jax_prompt.door import user_path
from jax_prompt.report import papers
from jax_prompt.report.rows import table_in
from jax_prompt.report.write import collect, find_groups, write_report


def main(arguments: Sequence[str] | None = None) -> None:
    """Adds runs to the table of results if asked, and writes the report."""
    parser = make_parser('report', __doc__)
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
    args = parser.parse_args(arguments)
    groups: papers.Groups | None = None
    if args.groups:
        read = json.loads(args.groups.read_text(encoding='utf-8'))
        groups = {name: tuple(tasks) for name, tasks in read.items()}
    results = table_in(args.results)
    groups = find_groups(results, args.benchmark, groups)
    said = collect(results, args.collect, args.benchmark, groups)
    said += write_report(results, args.out, args.benchmark, groups, args.accuracy, args.reference)
    for line in said:
        print(printable(line))
    print(f'report: {args.out / "report.html"}')
