"""Accuracy against cost: the points, and their picture as SVG that follows the page's colours."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from jax_prompt.evals.papers import Groups
from jax_prompt.evals.report import Cell, Line

WIDTH, HEIGHT = 760, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 20, 52
_LONGEST = 28
_LETTER, _LINE = 7.2, 15.0  # width of a letter and height of a line of labels, in units


@dataclass(frozen=True)
class Point:
    """One line of a report.

    Attributes:
      x: cost, above 0.
      y: accuracy in %.
      sd: of y, None where unknown.
      label: the method.
      paper: its paper, '' for a measured one.
    """

    x: float
    y: float
    sd: float | None
    label: str
    paper: str

    @property
    def short(self) -> str:
        """The label, cut where it is too long to stand in a plot."""
        return self.label if len(self.label) <= _LONGEST else f'{self.label[: _LONGEST - 1]}…'


@dataclass(frozen=True)
class Scatter:
    """Points and what their axes are.

    Attributes:
      name: for file names.
      x_name: the cost.
      y_name: the accuracy.
      points: what is drawn.
    """

    name: str
    x_name: str
    y_name: str
    points: tuple[Point, ...]


def make_scatters(lines: Sequence[Line], groups: Groups) -> list[Scatter]:
    """Returns accuracy against trained parameters (with the head) and against seconds.

    The accuracy is the mean over all tasks; where no line has that, the first group that one has.
    Lines without it, or without the cost, are left out; a plot without points too.
    """
    y_name, accuracy = _accuracy(lines, groups)
    costs: list[tuple[str, str, Callable[[Line], Cell]]] = [
        ('accuracy_by_trainable', 'trained parameters with head, millions', _trainable),
        ('accuracy_by_seconds', 'seconds a run, mean over tasks', lambda line: line.seconds),
    ]
    made = []
    for name, x_name, cost in costs:
        points = []
        for line in lines:
            x, y = cost(line).mean, accuracy(line)
            if x and y.mean is not None:
                points.append(Point(x, y.mean, y.sd, line.label, line.paper))
        made.append(Scatter(name, x_name, y_name, tuple(points)))
    return [scatter for scatter in made if scatter.points]


def _trainable(line: Line) -> Cell:
    return line.trainable_head


def _accuracy(lines: Sequence[Line], groups: Groups) -> tuple[str, Callable[[Line], Cell]]:
    measured = [line for line in lines if not line.paper] or list(lines)
    total = sum(map(len, groups.values()))
    if any(line.mean.mean is not None for line in measured):
        return f'accuracy in %, mean of {total} tasks', lambda line: line.mean
    for group, tasks in groups.items():
        if any(line.groups[group].mean is not None for line in measured):
            name = f'accuracy in %, mean of {group} ({len(tasks)} tasks)'
            return name, lambda line, group=group: line.groups[group]  # type: ignore[misc]
    return f'accuracy in %, mean of {total} tasks', lambda line: line.mean


def to_svg(scatter: Scatter) -> str:
    """Draws a scatter with a logarithmic cost axis; classes leave the colours to the page."""
    xs = [math.log10(point.x) for point in scatter.points]
    spread = [point.sd or 0.0 for point in scatter.points]
    low = min(p.y - s for p, s in zip(scatter.points, spread, strict=True))
    high = max(p.y + s for p, s in zip(scatter.points, spread, strict=True))
    x_low, x_high = _widen(min(xs), max(xs), 0.15)
    y_low, y_high = _widen(low, high, 1.0)
    plot_width, plot_height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def at_x(value: float) -> float:
        return _LEFT + (value - x_low) / (x_high - x_low) * plot_width

    def at_y(value: float) -> float:
        return _TOP + (y_high - value) / (y_high - y_low) * plot_height

    parts = [
        f'<svg class="scatter" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(scatter.y_name)} against {escape(scatter.x_name)}">'
    ]
    for value in log_ticks(x_low, x_high):
        x = at_x(math.log10(value))
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" '
                     f'y2="{HEIGHT - _BOTTOM}"/>')  # fmt: skip
        parts.append(_text(x, HEIGHT - _BOTTOM + 18, f'{value:,g}', 'middle', 'tick'))
    for value in linear_ticks(y_low, y_high):
        y = at_y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" '
                     f'y2="{y:.1f}"/>')  # fmt: skip
        parts.append(_text(_LEFT - 8, y + 4, f'{value:g}', 'end', 'tick'))
    middle = _LEFT + plot_width / 2
    parts.append(_text(middle, HEIGHT - 10, scatter.x_name, 'middle', 'axis'))
    turned = f'rotate(-90 16 {_TOP + plot_height / 2:.0f})'
    parts.append(_text(16, _TOP + plot_height / 2, scatter.y_name, 'middle', 'axis', turned))
    places = [(at_x(x), at_y(p.y)) for x, p in zip(xs, scatter.points, strict=True)]
    drawn = zip(scatter.points, places, strict=True)
    for point, (x, y) in sorted(drawn, key=lambda pair: not pair[0].paper):  # measured on top
        parts.append(_mark(point, x, y, (at_y(y_low) - at_y(y_low + (point.sd or 0.0)))))
    for point, spot in zip(scatter.points, place_labels(scatter.points, places), strict=True):
        if spot is not None:
            kind = 'paper' if point.paper else 'ours'
            parts.append(_text(spot[0], spot[1], point.short, 'start', f'name {kind}'))
    return '\n'.join([*parts, '</svg>'])


def _widen(low: float, high: float, least: float) -> tuple[float, float]:
    margin = max(0.08 * (high - low), least)
    return low - margin, high + margin


def log_ticks(low: float, high: float) -> list[float]:
    """Returns round values between two powers of ten: 1, or 1-2-5 where these are few.

    >>> log_ticks(-2.2, 0.2), log_ticks(0.0, 0.5)
    ([0.01, 0.1, 1.0], [1.0, 2.0])
    """
    decades = range(math.floor(low), math.ceil(high) + 1)
    for steps in ((1,), (1, 2, 5)):
        ticks = [float(f'{step}e{decade}') for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(ticks) > 2:
            break
    return ticks


def linear_ticks(low: float, high: float) -> list[float]:
    """Returns four to ten round values between two values.

    >>> linear_ticks(59.0, 81.5)
    [60.0, 65.0, 70.0, 75.0, 80.0]
    """
    scale = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = max(s * scale for s in (1, 2, 5, 10) if s * scale <= (high - low) / 4 + 1e-12)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _mark(point: Point, x: float, y: float, sd: float) -> str:
    kind = 'paper' if point.paper else 'ours'
    spread = '' if point.sd is None else f' ± {point.sd:.2f}'
    says = f'{point.label} {point.paper}: {point.y:.2f}{spread} % at {point.x:,.4g}'
    if point.paper:
        shape = f'<rect x="{x - 5.5:.1f}" y="{y - 5.5:.1f}" width="11" height="11"/>'
    else:
        shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        if point.sd:
            shape += f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - sd:.1f}" y2="{y + sd:.1f}"/>'
    return f'<g class="mark {kind}"><title>{escape(says)}</title>{shape}</g>'


def _text(x: float, y: float, text: str, anchor: str, name: str, turned: str = '') -> str:
    transform = f' transform="{turned}"' if turned else ''
    return (
        f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{transform}>'
        f'{escape(text)}</text>'
    )


def place_labels(
    points: Sequence[Point], places: Sequence[tuple[float, float]]
) -> list[tuple[float, float] | None]:
    """Finds a free spot for each label, measured ones first; None where there is none.

    Args:
      points: what the labels are of.
      places: where the points lie, in units of the picture.

    Returns:
      Left end of each label's base line.
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    spots: list[tuple[float, float] | None] = [None] * len(points)
    for i in sorted(range(len(points)), key=lambda i: (bool(points[i].paper), places[i])):
        (x, y), width = places[i], _LETTER * len(points[i].short)
        for left, base in (
            *((x + 9, y + 4), (x - 9 - width, y + 4)),
            *((x - width / 2, y - 10), (x - width / 2, y + 19)),
            *((x + 7, y - 8), (x + 7, y + 16), (x - 7 - width, y - 8), (x - 7 - width, y + 16)),
        ):
            box = (left, base - _LINE + 3, left + width, base + 3)
            inside = box[0] >= _LEFT and box[2] <= WIDTH - 4 and box[1] >= 4
            if inside and box[3] <= HEIGHT - _BOTTOM and not any(_overlap(box, b) for b in taken):
                spots[i] = (left, base)
                taken.append(box)
                break
    return spots


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
