"""Marks of a plot: each method has a colour and a shape of its own, and no mark covers another."""

from collections.abc import Sequence

# One colour a method, on a light page and on a dark one. Papers have a colour of their own.
LIGHT = (
    *('#1766c2', '#c62f3b', '#1a8a3a', '#7d3fbf', '#0b8a94'),
    *('#c0309a', '#7a7a00', '#50565f', '#7a4b2a', '#1c2f8a'),
)
DARK = (
    *('#6cb1ff', '#ff7b7f', '#5fd17f', '#c39bff', '#4fd5df'),
    *('#ff86d9', '#d0d04a', '#b9c0ca', '#d9a883', '#93a5ff'),
)
# Names of matplotlib, the letter that stands for the shape in a line of text, and the corners.
_SHAPES = {
    'o': ('●', ()),
    '^': ('▲', ((0, -5), (5, 4), (-5, 4))),
    'D': ('◆', ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0))),
    'v': ('▼', ((0, 5), (5, -4), (-5, -4))),
}
_APART = 13.0  # between the middles of marks that stand side by side, in units of a picture
_NEAR = 10.0  # marks closer than this cover each other
STYLES = len(LIGHT) * len(_SHAPES)


def style(number: int) -> tuple[int, str]:
    """Returns a colour and a shape; the first `STYLES` numbers have a pair of their own each.

    Args:
      number: of the method, from 0.

    Returns:
      Index of `LIGHT` and `DARK`, and matplotlib's name of the shape.
    """
    turn = number // (len(LIGHT) * len(_SHAPES) // 2)  # when the pairs would begin again
    return number % len(LIGHT), list(_SHAPES)[(number + turn) % len(_SHAPES)]


def letter(shape: str) -> str:
    """Returns a letter that looks like a shape."""
    return _SHAPES[shape][0]


def to_svg_shape(shape: str, x: float, y: float) -> str:
    """Draws a shape as an SVG element with its middle at (x, y)."""
    corners = _SHAPES[shape][1]
    if not corners:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    points = ' '.join(f'{x + across:.1f},{y + down:.1f}' for across, down in corners)
    return f'<polygon points="{points}"/>'


def side_by_side(
    places: Sequence[tuple[float, float]], spread: Sequence[float], low: float, high: float
) -> list[tuple[float, float]]:
    """Moves marks that would cover each other apart, sideways only: heights are the accuracies.

    Args:
      places: where the marks lie, in units of the picture.
      spread: half the height of each mark's error bar, in the same units.
      low: the left end of the plot.
      high: its right end.

    Returns:
      The places, in the same order.
    """
    placed = list(places)
    for group in _groups(places, spread):
        middle = sum(places[i][0] for i in group) / len(group)
        half = _APART * (len(group) - 1) / 2
        middle = max(min(middle, high - half), low + half)
        for k, i in enumerate(sorted(group, key=lambda i: places[i])):
            placed[i] = (middle - half + k * _APART, places[i][1])
    return placed


def _groups(places: Sequence[tuple[float, float]], spread: Sequence[float]) -> list[list[int]]:
    """Returns the indices of marks that touch each other, directly or through others."""
    groups: list[list[int]] = []
    for i in range(len(places)):
        touched = [g for g in groups if any(_touch(places, spread, i, j) for j in g)]
        groups = [g for g in groups if g not in touched]
        groups.append([i, *(j for g in touched for j in g)])
    return [group for group in groups if len(group) > 1]


def _touch(places: Sequence[tuple[float, float]], spread: Sequence[float], i: int, j: int) -> bool:
    reach = spread[i] + spread[j] + _NEAR
    return abs(places[i][0] - places[j][0]) < _NEAR and abs(places[i][1] - places[j][1]) < reach
