"""The plots of a report as .pdf and .png, by matplotlib."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax_prompt.report.marks import LIGHT, side_by_side, style
from jax_prompt.report.scatter import (
    HEIGHT,
    WIDTH,
    Scatter,
    limits,
    log_ticks,
    place_labels,
    x_title,
)


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
        figure, axes = plt.subplots(figsize=(8, 4.4), layout='constrained')
        _draw_axes(figure, axes, scatter)
        figure.canvas.draw()  # the layout is settled, so marks and labels can be placed
        figure.set_layout_engine('none')
        _draw_points(figure, axes, scatter)
        for suffix in ('pdf', 'png'):
            figure.savefig(out / f'{scatter.name}.{suffix}', dpi=150)
        plt.close(figure)


def _draw_axes(figure: Any, axes: Any, scatter: Scatter) -> None:
    """Draws axes with plain numbers, and a key of the methods beside them."""
    low, high, bottom, top = limits(scatter)
    axes.set(xscale='log', xlim=(10.0**low, 10.0**high), ylim=(bottom, top))
    ticks = log_ticks(low, high)
    axes.set_xticks(ticks, [f'{tick:,g}' for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(xlabel=scatter.x_name, ylabel=scatter.y_name)
    axes.grid(alpha=0.3)
    keys = []
    for point in scatter.points:
        if not point.paper:
            colour, shape = style(point.number)
            label = point.short.replace('$', r'\$')
            keys += axes.plot([], [], shape, color=LIGHT[colour], markersize=5, label=label)
    if any(point.paper for point in scatter.points):
        keys += axes.plot([], [], 's', color='C1', markerfacecolor='none', label='papers')
    columns = 1 + len(keys) // 24
    figure.legend(handles=keys, loc='outside right upper', fontsize=8, ncols=columns)


def _draw_points(figure: Any, axes: Any, scatter: Scatter) -> None:
    """Draws marks, none over another, and the labels that find room."""
    across, down = (n / side for n, side in zip((WIDTH, HEIGHT), figure.bbox.size, strict=True))
    points = scatter.points

    def placed(x: float, y: float) -> tuple[float, float]:
        right, up = axes.transData.transform((x, y))
        return across * right, HEIGHT - down * up

    exact = [placed(p.x, p.y) for p in points]
    spread = [abs(placed(p.x, p.y)[1] - placed(p.x, p.y + (p.sd or 0.0))[1]) for p in points]
    ends = axes.get_window_extent()
    places = side_by_side(exact, spread, across * ends.x0 + 6, across * ends.x1 - 6)
    axes.set_xlabel(x_title(scatter, exact, places))
    for point, (x, _) in sorted(zip(points, places, strict=True), key=lambda one: not one[0].paper):
        at = 10.0 ** _log_of(axes, x / across)
        if point.paper:
            axes.plot(at, point.y, 's', color='C1', markersize=7, markerfacecolor='none')
            continue
        colour, shape = style(point.number)
        axes.errorbar(at, point.y, point.sd or 0.0, fmt=shape, color=LIGHT[colour], markersize=5)
    spots = place_labels(points, places, across * ends.x1 - 4, HEIGHT - down * ends.y0)
    for point, spot in zip(points, spots, strict=True):
        if spot is not None:
            ink = 'C1' if point.paper else LIGHT[style(point.number)[0]]
            name, corner = point.short.replace('$', r'\$'), (spot[0] / WIDTH, 1 - spot[1] / HEIGHT)
            axes.annotate(name, corner, xycoords='figure fraction', fontsize=7, color=ink)


def _log_of(axes: Any, pixel: float) -> float:
    """Returns the power of ten at a pixel of the cost axis."""
    return math.log10(axes.transData.inverted().transform((pixel, 0.0))[0])
