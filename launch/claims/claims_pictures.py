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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jax_prompt.cli.curves import load_run
from jax_prompt.door import enter
from jax_prompt.report.curves import task_of
from jax_prompt.report.marks import LIGHT, style
from jax_prompt.report.rows import read


class Point(NamedTuple):
    """The accuracy of one seed in %, at a place of a method's line in a panel."""

    panel: str
    method: str
    x: float
    accuracy: float


class Line(NamedTuple):
    """A line of a panel: its places, the means there, and how far below and above they spread."""

    x: Sequence[float]
    mean: Sequence[float]
    below: Sequence[float]
    above: Sequence[float]


Panels = Mapping[str, Mapping[str, Line]]
Spread = Callable[[Sequence[float]], tuple[float, float]]


def over_prompts(results: Path) -> Iterator[Point]:
    """Yields the test accuracies over the number of prompts P."""
    for row in read(results / 'rows').rows:
        if row.accuracy is not None:
            given = row.hyperparameters
            kind = 'trained' if given['train_prompts'] else 'frozen'
            panel, prompts = f'{row.backbone}, prompts {kind}', given['num_prompts']
            yield Point(panel, row.method, prompts, 100 * row.accuracy)


def over_epochs(results: Path) -> Iterator[Point]:
    """Yields the validation accuracies over the epochs."""
    for path in sorted(results.glob('runs/*/*/seed_*/run/result.json')):
        result, epochs = load_run(path.parent)
        panel = f'{result["backbone"]}, {task_of(result)}'
        for row in epochs:
            if row.get('val_accuracy') is not None:
                yield Point(panel, result['method'], row['epoch'], 100 * row['val_accuracy'])


def deviation(values: Sequence[float]) -> tuple[float, float]:
    """Returns the sample standard deviation, for below and above; 0 of one value."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return spread, spread


def reach(values: Sequence[float]) -> tuple[float, float]:
    """Returns how far the smallest and the largest value lie from the mean."""
    mean = statistics.mean(values)
    return mean - min(values), max(values) - mean


def make_panels(points: Iterable[Point], spread: Spread) -> Panels:
    """Returns panel -> method -> line; the supervised backbone and VPT come first."""
    seeds: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        seeds[point.panel, point.method][point.x].append(point.accuracy)
    panels: dict[str, dict[str, Line]] = {}
    for (panel, method), values in sorted(seeds.items(), reverse=True):
        x = sorted(values)
        below, above = zip(*(spread(values[place]) for place in x), strict=True)
        mean = [statistics.mean(values[place]) for place in x]
        panels.setdefault(panel, {})[method] = Line(x, mean, below, above)
    return panels


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
    gather, spread = (over_prompts, deviation) if args.kind == 'prompts' else (over_epochs, reach)
    draw(make_panels(gather(args.results), spread), args.kind, args.out)


if __name__ == '__main__':
    enter(main)
