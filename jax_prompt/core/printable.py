"""Makes text from files safe to print: a terminal shows it and obeys none of it."""

import unicodedata
from collections.abc import Callable, Sequence

# These change the order in which letters are shown, so that one name can look like another.
_TURNS = set('\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069')


def printable(text: str) -> str:
    r"""Writes control characters, line ends and marks of direction as escapes.

    Names of classes and files come from elsewhere and may hold any character. Letters of all
    scripts, spaces and emoji stay as they are.

    Args:
      text: any text; surrogates (of file names that are not UTF-8) are allowed.

    Returns:
      One line that every UTF-8 terminal can show.

    >>> print(printable('red\x1b[31m\n'))
    red\x1b[31m\n
    """
    return ''.join(_escape(c) if _is_unsafe(c) else c for c in text)


def some(names: Sequence[str], most: int, show: Callable[[str], str] = printable) -> str:
    """Joins names by commas; those after the first `most` are counted.

    >>> some(['a', 'b', 'c', 'd'], 2)
    'a, b and 2 more'
    """
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(map(show, names[:most])) + more


def _is_unsafe(c: str) -> bool:
    return c in _TURNS or unicodedata.category(c) in ('Cc', 'Cs', 'Zl', 'Zp')


def _escape(c: str) -> str:
    return c.encode('unicode_escape', 'surrogatepass').decode()
