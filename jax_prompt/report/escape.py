"""Escapes text for the forms of a report, so that none of it is read as a command.

Names of tasks and methods, sources of weights and reasons of failures come from files. In a report
they are text: no spreadsheet computes them, no LaTeX runs them, no Markdown links or formats them.
"""

import re

from jax_prompt.core.printable import printable

# A spreadsheet computes a cell that begins with one of these, or with its full-width form.
_FORMULA = (*'=+-@', '\uff1d', '\uff0b', '\uff0d', '\uff20')
_MARKDOWN = ('\\', '|', '*', '_', '`', '[', ']', '~', '$', '#')
# Between letters or digits an underscore formats nothing (CommonMark 6.2, rules 2 and 4).
_INSIDE = re.compile(r'(?<=[A-Za-z0-9])\\_(?=[A-Za-z0-9])')
_LATEX = {
    '\\': r'\textbackslash{}',
    **{mark: f'\\{mark}' for mark in '&%$#_{}'},
    **{'~': r'\textasciitilde{}', '^': r'\textasciicircum{}', '<': '$<$', '>': '$>$'},
    **{'±': r'$\pm$', '\u2013': '--', '…': r'\ldots{}', '|': r'\textbar{}', '†': r'$\dagger$'},
}


def for_markdown(text: str) -> str:
    """Escapes text for one line of Markdown: a heading, a paragraph or a cell."""
    escaped = _one_line(text).replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
    for mark in _MARKDOWN:
        escaped = escaped.replace(mark, f'\\{mark}')
    return _INSIDE.sub('_', escaped)


def for_latex(text: str) -> str:
    """Escapes text for a cell of a LaTeX table."""
    escaped = ''.join(_LATEX.get(c, c) for c in _one_line(text))
    # Behind the end of a row, LaTeX takes these as options of the row's end.
    return f'{{}}{escaped}' if escaped.startswith(('[', '*')) else escaped


def for_latex_comment(text: str) -> str:
    """Makes text one line, so that all of it stays behind the comment's %."""
    return _one_line(text)


def for_csv(text: str) -> str:
    """Puts an apostrophe before text that a spreadsheet would compute; numbers don't pass here."""
    line = printable(text)
    return f"'{line}" if line.lstrip().startswith(_FORMULA) else line


def _one_line(text: str) -> str:
    return printable(' '.join(text.split()))
