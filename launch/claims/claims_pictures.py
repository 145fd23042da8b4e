"""Draws the pictures of docs/claims.md from the folders that `jax-prompt benchmark` wrote.

    python launch/claims/claims_pictures.py prompts --results runs/prompts --out prompts.png
    python launch/claims/claims_pictures.py curves --results runs/claims --out curves.png

`prompts` draws the test accuracy over the number of prompts P: a panel for each backbone, with
prompts trained or frozen, and a line for each method, with mean and sample standard deviation over
the seeds. `curves` draws the validation accuracy over the epochs: a panel for each task and
backbone, the mean over the seeds as a line, and their range as a band. Needs matplotlib:
pip install 'jax-prompt[quickstart]'.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax_prompt.cli.curves import load_run
from jax_prompt.door import enter
from jax_prompt.report.curves import task_of
from jax_prompt.report.marks import LIGHT, style
from jax_prompt.report.rows import read


class Line(NamedTuple):
    """A line of a panel: its places, the means there, and how far below and above they spread."""

    x: list[float]
    mean: list[float]
    below: list[float]
    above: list[float]


Panels = Mapping[str, Mapping[str, Line]]


def over_prompts(results: Path) -> Panels:
    """Returns panel -> method -> test accuracy in % over P, with sample standard deviations."""
    found: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in read(results / 'rows').rows:
        if row.accuracy is not None:
            kind = 'trained' if row.hyperparameters['train_prompts'] else 'frozen'
            lengths = found[f'{row.backbone}, prompts {kind}'][row.method]
            lengths[row.hyperparameters['num_prompts']].append(100 * row.accuracy)

    def line(values: Mapping[int, Sequence[float]]) -> Line:
        x = sorted(values)
        spread = [statistics.stdev(values[p]) if len(values[p]) > 1 else 0.0 for p in x]
        return Line(list(map(float, x)), [statistics.mean(values[p]) for p in x], spread, spread)

    return _sorted({name: {m: line(v) for m, v in one.items()} for name, one in found.items()})


def over_epochs(results: Path) -> Panels:
    """Returns panel -> method -> validation accuracy in % over epochs, with the seeds' range."""
    found: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for path in sorted(results.glob('runs/*/*/seed_*/run/result.json')):
        result, epochs = load_run(path.parent)
        points = found[f'{result["backbone"]}, {task_of(result)}'][result['method']]
        for row in epochs:
            if row.get('val_accuracy') is not None:
                points[row['epoch']].append(100 * row['val_accuracy'])

    def line(values: Mapping[int, Sequence[float]]) -> Line:
        x = sorted(values)
        mean = [statistics.mean(values[e]) for e in x]
        below = [m - min(values[e]) for m, e in zip(mean, x, strict=True)]
        above = [max(values[e]) - m for m, e in zip(mean, x, strict=True)]
        return Line(list(map(float, x)), mean, below, above)

    return _sorted({name: {m: line(v) for m, v in one.items()} for name, one in found.items()})


def _sorted(panels: Mapping[str, Mapping[str, Line]]) -> Panels:
    """Returns panels and lines by name, those of the supervised backbone and of VPT first."""
    return {p: dict(sorted(panels[p].items(), reverse=True)) for p in sorted(panels, reverse=True)}


def draw(panels: Panels, kind: str, path: Path) -> None:
    """Draws the panels, two in a row; an odd number of panels in one row."""
    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    if not panels:
        raise ValueError(
            'there is no finished run in these results; name the folder of a benchmark'
        )
    columns = len(panels) if len(panels) % 2 else 2
    size = (4.4 * columns, 3.4 * (len(panels) // columns))
    figure, axes = plt.subplots(
        len(panels) // columns, columns, figsize=size, layout='constrained', squeeze=False
    )
    methods = sorted({name for lines in panels.values() for name in lines}, reverse=True)
    for panel, (title, lines) in zip(axes.flat, panels.items(), strict=True):
        for name, line in lines.items():
            colour, shape = style(methods.index(name))
            ink = LIGHT[colour]
            if kind == 'prompts':
                spread = [line.below, line.above]
                panel.errorbar(line.x, line.mean, spread, fmt=f'{shape}-', color=ink, label=name)
                continue
            panel.plot(line.x, line.mean, f'{shape}-', color=ink, markersize=4, label=name)
            low = [m - b for m, b in zip(line.mean, line.below, strict=True)]
            high = [m + a for m, a in zip(line.mean, line.above, strict=True)]
            panel.fill_between(line.x, low, high, color=ink, alpha=0.15, linewidth=0)
        panel.set_title(title, fontsize=10)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=9)
        if kind == 'prompts':
            places = sorted({x for line in lines.values() for x in line.x})
            panel.set(xscale='log', xlabel='prompts a block, P', ylabel='test accuracy in %')
            panel.set_xticks(places, [f'{x:g}' for x in places])
            panel.set_xticks([], minor=True)
        else:
            panel.set(xlabel='epoch', ylabel='validation accuracy in %', xlim=(0, None))
            panel.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Draws one picture."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('kind', choices=('prompts', 'curves'))
    parser.add_argument('--results', type=Path, required=True, help='folder of the benchmark')
    parser.add_argument('--out', type=Path, required=True, help='the picture')
    args = parser.parse_args()
    panels = over_prompts(args.results) if args.kind == 'prompts' else over_epochs(args.results)
    draw(panels, args.kind, args.out)


if __name__ == '__main__':
    enter(main)
