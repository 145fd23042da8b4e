"""The keys of a configuration: all of them listed, and the nearest to one that is wrong."""

import difflib
import inspect
import re
import runpy
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax_prompt.methods import METHODS
from jax_prompt.runs.config import RunConfig
from jax_prompt.suite.named_configs import find_config
from jax_prompt.suite.suite import Benchmark

_ENTRY = re.compile(r'^  (\w+): (.*)')
_FLAG = re.compile(r'^--?config\.([^=\s]+)')


def load_config(asked: str) -> Any:
    """Returns the ConfigDict of 'FILE' or 'NAME', with ':ARGUMENT' or without.

    Raises:
      ValueError: no such file or name, or none with get_config; names what is near.
    """
    file, _, argument = find_config(asked).partition(':')
    try:
        get_config = runpy.run_path(file)['get_config']
    except KeyError:
        raise ValueError(f'{file} has no function get_config(arg)') from None
    except SyntaxError as error:
        raise ValueError(f'{file} is no Python: line {error.lineno}: {error.msg}') from error
    return get_config(argument or None)


def check_flags(config: Mapping[str, Any], argv: Sequence[str]) -> None:
    """Checks that each `--config.KEY` of a command line is a key of the configuration.

    Raises:
      ValueError: one is not; names the nearest.
    """
    keys = [key for key, _ in walk(config)]
    known = {'.'.join(key.split('.')[:n]) for key in keys for n in range(1, key.count('.') + 2)}
    for match in filter(None, map(_FLAG.match, argv)):
        key = match[1]
        if key not in known and not any(k and key.startswith(f'{k}.') for k in _open(config)):
            raise ValueError(_unknown(key, sorted(known), config))


def _open(config: Mapping[str, Any]) -> list[str]:
    """Returns the keys of empty mappings: a user may name anything in them."""
    return [key for key, value in walk(config) if hasattr(value, 'items')]


def _unknown(key: str, known: Sequence[str], config: Mapping[str, Any]) -> str:
    run = config.get('run', config)
    method = run.get('method', '') if hasattr(run, 'get') else ''
    if key.rpartition('.')[2] == 'num_prompts':
        return f'config key {key} has no effect: method {method} has no prompts; leave it out'
    last = key.rpartition('.')[2]
    same = [k for k in known if k.rpartition('.')[2] == last]
    near = [*same, *difflib.get_close_matches(key, known, n=3)]
    ends = {k.rpartition('.')[2]: k for k in known}
    near += [ends[one] for one in difflib.get_close_matches(last, list(ends), n=2)]
    hint = f'; did you mean {", ".join(dict.fromkeys(near))}?' if near else ''
    return f'unknown config key {key}{hint} (--config FILE --help lists them all)'


def walk(config: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of all that is no mapping with something in it."""
    for name, value in config.items():
        if hasattr(value, 'items') and len(value):
            yield from walk(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value


def describe(config: Mapping[str, Any], width: int = 96) -> str:
    """Lists the keys of a configuration: each with its value and the sentence that explains it."""
    lines = []
    for key, value in walk(config):
        shown = dict(value) if hasattr(value, 'items') else value
        lines.append(f'--config.{key}={shown!r}')
        lines += textwrap.wrap(
            sentence(config, key), width, initial_indent=' ' * 6, subsequent_indent=' ' * 6
        )
    return '\n'.join(lines)


def sentence(config: Mapping[str, Any], key: str) -> str:
    """Returns what a key of a configuration means, from the docstring of its dataclass."""
    parts = key.split('.')
    owner: Any = RunConfig
    if 'run' in config:  # a benchmark
        if parts[0] != 'run':
            return attributes_of(Benchmark).get(parts[0], '')
        parts, config = parts[1:], config['run']
    if len(parts) > 1 and parts[0] in ('tuner', 'transform'):
        names = config['method'].split('+')
        rows = [METHODS[name] for name in names if name in METHODS]
        if parts[0] == 'tuner' and len(names) > 1:
            rows = [row for row in rows if row.name == parts[1]]
        kinds = [row.tuner if parts[0] == 'tuner' else row.transform for row in rows]
        found = [attributes_of(kind).get(parts[-1], '') for kind in kinds if kind]
        return next(filter(None, found), '')
    for part in parts[:-1]:
        fields = owner.__dataclass_fields__
        owner = fields[part].type if part in fields else owner
    return attributes_of(owner).get(parts[-1], '')


def attributes_of(kind: Any) -> dict[str, str]:
    """Returns the entries of 'Attributes:' in the docstrings of a class and of its bases."""
    found: dict[str, str] = {}
    for one in reversed(getattr(kind, '__mro__', ())):
        section = (inspect.cleandoc(one.__doc__ or '')).partition('Attributes:\n')[2]
        name = ''
        for line in section.splitlines():
            if match := _ENTRY.match(line):
                name = match[1]
                found[name] = match[2]
            elif line.startswith('    ') and name:
                found[name] += f' {line.strip()}'
            elif line and not line.startswith(' '):
                break
    return found
