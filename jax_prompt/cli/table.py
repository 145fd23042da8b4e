"""Tables of text for the terminal: columns as wide as what stands in them."""

from collections.abc import Sequence

from jax_prompt.core.printable import printable


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns rows under their head, columns aligned to the left.

    >>> print(format_table(('name', 'px'), [('vit', '32'), ('resnet', '224')]))
    name    px
    vit     32
    resnet  224
    """
    cells = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ('  '.join(map(str.ljust, row, widths)).rstrip() for row in cells)
    return '\n'.join(lines)
