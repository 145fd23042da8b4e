"""Finished runs side by side: a table for the terminal and a picture of their curves."""

from pathlib import Path
from typing import Any

from jax_prompt.core.printable import printable
from jax_prompt.report.marks import LIGHT, style

Run = tuple[dict[str, Any], list[dict[str, Any]]]


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
                printable(task_of(result)),
                printable(result['method']),
                _percent(result['test_accuracy'], 2),
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
    """Draws a panel a task: accuracy as runs go on.

    Runs have different numbers of epochs, so the axis is the share of a run's training that is
    done. Lines are validation accuracy. A run without it is a dashed line of its training accuracy,
    and the axis says so. The legend gives the test accuracies, best first.
    """
    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    tasks = by_task(runs)
    shown = [key for members in tasks.values() for key in keys([r for r, _ in members])]
    styles = {key: style(i) for i, key in enumerate(dict.fromkeys(shown))}
    width = 4.6 * len(tasks) + 0.4
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(width, 4.2), layout='constrained', squeeze=False
    )
    for panel, (task, members) in zip(axes[0], tasks.items(), strict=True):
        drawn = dict.fromkeys(name for _, epochs in members if (name := measured(epochs)))
        looks = [styles[key] for key in keys([result for result, _ in members])]
        names = labels([result for result, _ in members])
        order = sorted(zip(members, names, looks, strict=True), key=lambda one: -_test(one[0][0]))
        for (_, epochs), name, look in order:
            _curve(panel, epochs, name, look)
        chance = 100 / len(members[0][0]['classes'])
        panel.axhline(chance, color='0.6', linestyle=':', linewidth=1.2)
        panel.annotate('chance', (100, chance), ha='right', va='bottom', color='0.5', fontsize=8)
        panel.set(xlabel='training done in %', title=printable(task), xlim=(0, 102), ylim=(0, 102))
        panel.set_ylabel(_axis(list(drawn)))
        panel.grid(alpha=0.25)
        panel.spines[['top', 'right']].set_visible(False)
        panel.legend(title='test accuracy', fontsize=9, title_fontsize=9, framealpha=0.85)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    plt.close(figure)


def measured(epochs: list[dict[str, Any]]) -> str:
    """Returns what a run's line shows: 'val_accuracy', else 'train_accuracy', '' for no epochs."""
    if any(row.get('val_accuracy') is not None for row in epochs):
        return 'val_accuracy'
    return 'train_accuracy' if epochs else ''


def keys(results: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Returns the method of each run of a panel, and which of its runs there it is, from 0."""
    methods = [result['method'] for result in results]
    return [(method, methods[:i].count(method)) for i, method in enumerate(methods)]


def labels(results: list[dict[str, Any]]) -> list[str]:
    """Names the runs of a panel with their test accuracy; runs of one method by their seeds too."""
    names = []
    for (method, place), result in zip(keys(results), results, strict=True):
        seeds = [one.get('seed') for one in results if one['method'] == method]
        which = ''
        if len(seeds) > 1:
            several = len(set(seeds)) < len(seeds)
            which = f', run {place + 1}' if several else f', seed {result.get("seed")}'
        names.append(printable(f'{method}{which}  {_percent(result["test_accuracy"], 1)}'))
    return names


def _percent(value: float | None, digits: int) -> str:
    return 'no test split' if value is None else f'{100 * value:.{digits}f} %'


def _test(result: dict[str, Any]) -> float:
    return -1.0 if result['test_accuracy'] is None else result['test_accuracy']


def _axis(drawn: list[str]) -> str:
    if drawn == ['train_accuracy']:
        return 'training accuracy in %'
    if len(drawn) > 1:
        return 'accuracy in % (solid: validation, dashed: training)'
    return 'validation accuracy in %'


def _curve(panel: Any, epochs: list[dict[str, Any]], name: str, look: tuple[int, str]) -> None:
    """Draws a run's line; dashed where only training accuracy is known, a mark for one epoch."""
    key = measured(epochs)
    points = [
        (100 * row['epoch'] / epochs[-1]['epoch'], 100 * row[key])
        for row in epochs
        if row.get(key) is not None
    ]
    colour, shape = look
    panel.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=LIGHT[colour],
        linestyle='--' if key == 'train_accuracy' else '-',
        linewidth=1.8,
        # One epoch has no line, and methods of one colour differ in their marks.
        marker=shape,
        markevery=None if len(points) == 1 else [len(points) - 1],
        markersize=5,
        clip_on=False,
        label=name if points else f'{name} (no epochs recorded)',
    )
