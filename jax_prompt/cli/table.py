"""Tables of text for the terminal: columns as wide as what stands in them."""

import shutil
import sys
import textwrap
from collections.abc import Sequence

from jax_prompt.core.printable import printable

_LEAST = 20  # characters of the last column, however narrow the terminal


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: as wide as the terminal, or a line a row where the output goes elsewhere."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    print(format_table(head, rows, width))


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int = 0) -> str:
    """Returns rows under their head, columns aligned to the left.

    Args:
      head: names of the columns.
      rows: their cells.
      width: characters of a line, beyond which words of the last column go on in the next line;
        0: each row is one line.

    >>> print(format_table(('name', 'px'), [('vit', '32'), ('resnet', '224')]))
    name    px
    vit     32
    resnet  224
    """
    cells = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    before = sum(widths[:-1]) + 2 * len(widths[:-1])
    if width:
        cells = [
            [*row[:-1], _wrapped(row[-1], max(_LEAST, width - before), before)] for row in cells
        ]
    lines = ('  '.join(map(str.ljust, row, widths)).rstrip() for row in cells)
    return '\n'.join(lines)


def _wrapped(text: str, width: int, before: int) -> str:
    parts = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return ('\n' + ' ' * before).join(parts)
