"""Writes docs/api.md from the docstrings of the Python interface: `python tests/api_page.py`.

`tests/test_api_page.py` compares the page with them.
"""

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'api.md'
_SECTION = re.compile(r'^(Args|Attributes|Returns|Raises):$')
_ITEM = re.compile(r'^([\w*, ]+): (.*)')


def page() -> str:
    """Returns the text of the page."""
    from jax_prompt import api

    methods = [getattr(api.Tuned, name) for name in vars(api.Tuned) if not name.startswith('_')]
    text, _, example = (inspect.getdoc(api) or '').partition('\n>>> ')
    parts = [
        '# Python interface',
        'This page is made from the docstrings by `python tests/api_page.py`.',
        text.strip(),
        f'```python\n>>> {example}\n```',
        *_entry('jax_prompt.tune', api.tune),
        *_entry('jax_prompt.load', api.load),
        *_entry('jax_prompt.Tuned', api.Tuned, signature=False),
        *(part for one in methods for part in _entry(f'Tuned.{one.__name__}', one, '###')),
    ]
    return '\n\n'.join(parts) + '\n'


def _entry(
    name: str, thing: Callable[..., Any], mark: str = '##', signature: bool = True
) -> Iterator[str]:
    """Yields the heading, the call and the docstring of a function or class."""
    yield f'{mark} {name}'
    if signature:
        yield f'```python\n{_call(name, thing)}\n```'
    lines, body = (inspect.getdoc(thing) or '').splitlines(), list[str]()
    section = ''
    for line in [*lines, 'Args:']:
        if found := _SECTION.match(line):
            if '\n'.join(body).strip():
                yield from _section(section, '\n'.join(body))
            section, body = found[1], []
        else:
            body.append(line)


def _call(name: str, thing: Callable[..., Any]) -> str:
    """Returns how a function is called, without types."""
    words = []
    for one in inspect.signature(thing).parameters.values():
        if one.name == 'self':
            continue
        stars = '**' if one.kind is one.VAR_KEYWORD else ''
        if one.kind is one.KEYWORD_ONLY and '*' not in words:
            words.append('*')
        given = '' if one.default is one.empty else f'={one.default!r}'
        words.append(f'{stars}{one.name}{given}')
    text = f'{name}({", ".join(words)})'
    return '\n'.join(textwrap.wrap(text, 96, subsequent_indent=' ' * 4))


def _section(section: str, body: str) -> Iterator[str]:
    """Yields a section as a paragraph or as a list."""
    if not section:
        yield body.strip()
        return
    items: list[str] = []
    for line in textwrap.dedent(body).strip().splitlines():
        if (found := _ITEM.match(line)) and section != 'Returns':
            items.append(f'- `{found[1]}`: {found[2]}')
        elif items:
            items[-1] += f' {line.strip()}'
        else:
            items.append(line)
    title = {'Args': 'Arguments'}.get(section, section)
    yield f'{title}: ' + ' '.join(items) if section == 'Returns' else f'{title}:'
    if section != 'Returns':
        yield '\n'.join(items)


if __name__ == '__main__':
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(), encoding='utf-8')
