"""Shows finished runs side by side: a table on the terminal and a picture of their curves.

    python launch/plot_curves.py runs/quickstart/*/* --out curves.png

Runs of one task share a panel. Needs matplotlib: pip install 'jax-prompt[quickstart]'.
"""

import argparse
from pathlib import Path
from typing import Any

from jax_prompt.core.json_file import load_object
from jax_prompt.door import enter, user_path
from jax_prompt.train.log import read_metrics

Run = tuple[dict[str, Any], list[dict[str, Any]]]


def load_run(workdir: Path) -> Run:
    """Reads a finished run.

    Args:
      workdir: the run's folder.

    Returns:
      result.json, and the epochs of the final training (those of the search are left out).

    Raises:
      FileNotFoundError: the run is not finished.
    """
    path = workdir / 'result.json'
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} is missing: the run is not finished; start launch/train.py again on {workdir}'
        )
    rows = read_metrics(workdir / 'metrics.jsonl')
    epochs = [r for r in rows if r.get('kind') == 'epoch' and r.get('stage') == 'train']
    way_out = 'remove it and start launch/train.py again: it is made anew from the last checkpoint'
    return load_object(path, way_out), epochs


def task_of(result: dict[str, Any]) -> str:
    """Returns the task's short name: that of the project's own sets without prefix and version."""
    name: str = result['data']
    own = name.startswith('jax_prompt_')
    return name.removeprefix('jax_prompt_').rpartition('/')[0] if own else name


def by_task(runs: list[Run]) -> dict[str, list[Run]]:
    """Returns the runs of each task, both in the order given."""
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        tasks.setdefault(task_of(run[0]), []).append(run)
    return tasks


def table(results: list[dict[str, Any]]) -> str:
    """Formats results as aligned columns, one line a run."""
    rows = [('task', 'method', 'test accuracy', 'trainable parameters', 'of them head', 'seconds')]
    for result in results:
        rows.append(
            (
                task_of(result),
                result['method'],
                f'{100 * result["test_accuracy"]:.2f} %',
                f'{result["num_trainable"]:,}',
                f'{result["num_trainable_head"]:,}',
                f'{result["seconds_total"]:.1f}',
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append('  '.join([*left, *right]))
    return '\n'.join(lines)


def plot(runs: list[Run], out: Path) -> None:
    """Draws a panel a task: validation accuracy (without it, training accuracy) as runs go on.

    Runs have different numbers of epochs, so the axis is the share of a run's training that is
    done. The legend gives the test accuracies, best first.
    """
    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    tasks = by_task(runs)
    colours = {name: f'C{i}' for i, name in enumerate(dict.fromkeys(r['method'] for r, _ in runs))}
    width = 4.6 * len(tasks) + 0.4
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(width, 4.2), layout='constrained', squeeze=False
    )
    for panel, (task, members) in zip(axes[0], tasks.items(), strict=True):
        for result, epochs in sorted(members, key=lambda run: -run[0]['test_accuracy']):
            _curve(panel, result, epochs, colours[result['method']])
        chance = 100 / len(members[0][0]['classes'])
        panel.axhline(chance, color='0.6', linestyle=':', linewidth=1.2)
        panel.annotate('chance', (100, chance), ha='right', va='bottom', color='0.5', fontsize=8)
        panel.set(xlabel='training done in %', title=task, xlim=(0, 100), ylim=(0, 102))
        panel.grid(alpha=0.25)
        panel.spines[['top', 'right']].set_visible(False)
        panel.legend(title='test accuracy', fontsize=9, title_fontsize=9, framealpha=0.85)
    axes[0, 0].set_ylabel('validation accuracy in %')
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    plt.close(figure)


def _curve(panel: Any, result: dict[str, Any], epochs: list[dict[str, Any]], colour: str) -> None:
    """Draws a run's line; dashed where only training accuracy is known."""
    measured = [row for row in epochs if row.get('val_accuracy') is not None]
    key = 'val_accuracy' if measured else 'train_accuracy'
    last = epochs[-1]['epoch']
    panel.plot(
        [100 * row['epoch'] / last for row in measured or epochs],
        [100 * row[key] for row in measured or epochs],
        color=colour,
        linestyle='-' if measured else '--',
        linewidth=1.8,
        label=f'{result["method"]}  {100 * result["test_accuracy"]:.1f} %'
        + ('' if measured else ' (line: training)'),
    )


def main() -> None:
    """Prints the table and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('workdirs', type=user_path, nargs='+', help='folders of finished runs')
    parser.add_argument('--out', type=user_path, default=Path('curves.png'), help='the picture')
    args = parser.parse_args()
    runs = [load_run(workdir) for workdir in args.workdirs]
    print(table([result for result, _ in runs]))
    plot(runs, args.out)
    print(f'\ncurves: {args.out}')


if __name__ == '__main__':
    enter(main)
