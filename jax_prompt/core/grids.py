"""Where a chosen value stands in the grid that it was chosen from."""

from collections.abc import Mapping, Sequence


def edge_of(grid: Sequence[float], value: float) -> str:
    """Returns 'highest' or 'lowest' if a choice is at an end of its grid, else ''.

    A better value may then lie beyond. A grid of fewer than three values says nothing: each of its
    values is at an end. Nor does an end at 0, below which there is nothing.

    >>> edge_of((0.001, 0.003, 0.01), 0.01), edge_of((0.001, 0.003, 0.01), 0.003)
    ('highest', '')
    """
    if len(grid) < 3:
        return ''
    if value >= max(grid):
        return 'highest'
    return 'lowest' if value <= min(grid) and value > 0 else ''


def edges(chosen: Mapping[str, float], grids: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """Returns the choices that are at an end of their grid, as {'lr': 'highest'}.

    Args:
      chosen: what a search chose, by name; what it lacks is left out.
      grids: the values that were tried, by the same names.
    """
    found = {name: edge_of(grid, chosen[name]) for name, grid in grids.items() if name in chosen}
    return {name: edge for name, edge in found.items() if edge}
