"""Shows finished runs side by side: a table on the terminal and a picture of their curves.

    jax-prompt curves runs/quickstart/*/* --out curves.png

Runs of one task share a panel. Needs matplotlib: pip install 'jax-prompt[quickstart]'.
"""

from collections.abc import Sequence
from pathlib import Path

from jax_prompt.cli.parser import make_parser
from jax_prompt.door import user_path
from jax_prompt.report.collect import read_result
from jax_prompt.report.curves import Run, plot, table
from jax_prompt.train.log import read_metrics


def load_run(workdir: Path) -> Run:
    """Reads a finished run.

    Args:
      workdir: the run's folder.

    Returns:
      result.json, and the epochs of the final training (those of the search are left out).

    Raises:
      FileNotFoundError: the run is not finished.
    """
    result = read_result(workdir)
    rows = read_metrics(workdir / 'metrics.jsonl')
    epochs = [r for r in rows if r.get('kind') == 'epoch' and r.get('stage') == 'train']
    return result, epochs


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table and writes the picture."""
    parser = make_parser('curves', __doc__)
    parser.add_argument('workdirs', type=user_path, nargs='+', help='folders of finished runs')
    parser.add_argument('--out', type=user_path, default=Path('curves.png'), help='the picture')
    args = parser.parse_args(arguments)
    runs = [load_run(workdir) for workdir in args.workdirs]
    print(table([result for result, _ in runs]))
    plot(runs, args.out)
    print(f'\ncurves: {args.out}')
