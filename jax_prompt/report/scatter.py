"""Accuracy against cost: the points, and their picture as SVG that follows the page's colours."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from jax_prompt.report.marks import side_by_side, style, to_svg_shape
from jax_prompt.report.papers import Groups
from jax_prompt.report.summary import Line, TableCell

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 20, 52  # margins
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
      number: of a measured one, which gives it its colour and shape (`marks.style`).
    """

    x: float
    y: float
    sd: float | None
    label: str
    paper: str
    number: int = 0

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
    Lines without it, or without the cost, are left out; a plot without points too. A measured line
    has the same colour and shape in each plot.
    """
    numbers = {id(line): i for i, line in enumerate(line for line in lines if not line.paper)}
    names = _names(lines)
    y_name, accuracy = _accuracy(lines, groups)
    costs: list[tuple[str, str, Callable[[Line], TableCell]]] = [
        (
            'accuracy_by_trainable',
            'trained parameters with head, millions',
            lambda line: line.trainable_head,
        ),
        ('accuracy_by_seconds', 'seconds a run, mean over tasks', lambda line: line.seconds),
    ]
    made = []
    for name, x_name, cost in costs:
        points = []
        for line, label in zip(lines, names, strict=True):
            x, y = cost(line).mean, accuracy(line)
            if x and y.mean is not None:
                number, mixed = numbers.get(id(line), 0), ' †' if y.mixed else ''
                points.append(Point(x, y.mean, y.sd, label + mixed, line.paper, number))
        made.append(Scatter(name, x_name, y_name, tuple(points)))
    return [scatter for scatter in made if scatter.points]


def _names(lines: Sequence[Line]) -> list[str]:
    """Names each line by its method; where measured lines share that, by what differs too."""
    own = [line for line in lines if not line.paper]
    names = []
    for line in lines:
        twins = [] if line.paper else [one for one in own if one.label == line.label]
        differ = [
            getattr(line, part)
            for part in ('backbone', 'weights')
            if len({getattr(one, part) for one in twins}) > 1
        ]
        names.append(', '.join([line.label, *differ]))
    return names


def _accuracy(lines: Sequence[Line], groups: Groups) -> tuple[str, Callable[[Line], TableCell]]:
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
    x_low, x_high, y_low, y_high = limits(scatter)
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at_x(value: float) -> float:
        return LEFT + (math.log10(value) - x_low) / (x_high - x_low) * plot_width

    def at_y(value: float) -> float:
        return TOP + (y_high - value) / (y_high - y_low) * plot_height

    parts = [
        f'<svg class="scatter" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(scatter.y_name)} against {escape(scatter.x_name)}">'
    ]
    for value in log_ticks(x_low, x_high):
        x = at_x(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" '
                     f'y2="{HEIGHT - BOTTOM}"/>')  # fmt: skip
        parts.append(_text(x, HEIGHT - BOTTOM + 18, f'{value:,g}', 'middle', 'tick'))
    for value in linear_ticks(y_low, y_high):
        y = at_y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" '
                     f'y2="{y:.1f}"/>')  # fmt: skip
        parts.append(_text(LEFT - 8, y + 4, f'{value:g}', 'end', 'tick'))
    exact = [(at_x(point.x), at_y(point.y)) for point in scatter.points]
    spread = [(point.sd or 0.0) / (y_high - y_low) * plot_height for point in scatter.points]
    places = side_by_side(exact, spread, LEFT + 6, WIDTH - RIGHT - 6)
    middle = LEFT + plot_width / 2
    parts.append(_text(middle, HEIGHT - 10, x_title(scatter, exact, places), 'middle', 'axis'))
    turned = f'rotate(-90 16 {TOP + plot_height / 2:.0f})'
    parts.append(_text(16, TOP + plot_height / 2, scatter.y_name, 'middle', 'axis', turned))
    drawn = zip(scatter.points, places, spread, strict=True)
    for point, (x, y), sd in sorted(drawn, key=lambda one: not one[0].paper):  # measured on top
        parts.append(_mark(point, x, y, sd))
    for point, spot in zip(scatter.points, place_labels(scatter.points, places), strict=True):
        if spot is not None:
            parts.append(_text(spot[0], spot[1], point.short, 'start', f'name {_kind(point)}'))
    return '\n'.join([*parts, '</svg>'])


def limits(scatter: Scatter) -> tuple[float, float, float, float]:
    """Returns the ends of the axes: of cost as powers of ten, of accuracy in %."""
    xs = [math.log10(point.x) for point in scatter.points]
    ends = [point.y + sign * (point.sd or 0.0) for point in scatter.points for sign in (-1, 1)]
    return *_widen(min(xs), max(xs), 0.15), *_widen(min(ends), max(ends), 1.0)


def x_title(scatter: Scatter, exact: Sequence[tuple], places: Sequence[tuple]) -> str:
    """Returns the name of the cost axis; it says so where marks were moved sideways."""
    moved = any(math.dist(a, b) > 0.5 for a, b in zip(exact, places, strict=True))
    return scatter.x_name + (' (nearly equal ones stand side by side)' if moved else '')


def _kind(point: Point) -> str:
    return 'paper' if point.paper else f'ours m{style(point.number)[0]}'


def _widen(low: float, high: float, least: float) -> tuple[float, float]:
    margin = max(0.08 * (high - low), least)
    return low - margin, high + margin


def log_ticks(low: float, high: float) -> list[float]:
    """Returns at least three round values between two powers of ten.

    Powers of ten are enough where the axis is long. A shorter one has 1-2-5, then equal steps.

    >>> log_ticks(-2.2, 0.2), log_ticks(0.0, 0.5)
    ([0.01, 0.1, 1.0], [1.0, 1.5, 2.0, 2.5, 3.0])
    """
    decades = range(math.floor(low), math.ceil(high) + 1)
    for steps in ((1,), (1, 2, 5)):
        ticks = [float(f'{step}e{decade}') for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(ticks) > 2:
            return ticks
    return linear_ticks(10.0**low, 10.0**high)


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
    spread = '' if point.sd is None else f' ± {point.sd:.2f}'
    says = f'{point.label} {point.paper}: {point.y:.2f}{spread} % at {point.x:,.4g}'
    if point.paper:
        shape = f'<rect x="{x - 5.5:.1f}" y="{y - 5.5:.1f}" width="11" height="11"/>'
    else:
        shape = to_svg_shape(style(point.number)[1], x, y)
        if sd:
            shape += f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - sd:.1f}" y2="{y + sd:.1f}"/>'
    return f'<g class="mark {_kind(point)}"><title>{escape(says)}</title>{shape}</g>'


def _text(x: float, y: float, text: str, anchor: str, name: str, turned: str = '') -> str:
    transform = f' transform="{turned}"' if turned else ''
    return (
        f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{transform}>'
        f'{escape(text)}</text>'
    )


def place_labels(
    points: Sequence[Point],
    places: Sequence[tuple[float, float]],
    right: float = WIDTH - 4,
    bottom: float = HEIGHT - BOTTOM,
) -> list[tuple[float, float] | None]:
    """Finds a free spot for each label, measured ones first; None where there is none.

    Args:
      points: what the labels are of.
      places: where the points lie, in units of the picture.
      right: the right end of the room for labels.
      bottom: its lower end.

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
            inside = box[0] >= LEFT and box[2] <= right and box[1] >= 4
            if inside and box[3] <= bottom and not any(_overlap(box, b) for b in taken):
                spots[i] = (left, base)
                taken.append(box)
                break
    return spots


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
