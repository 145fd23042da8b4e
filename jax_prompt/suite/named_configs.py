"""The configurations that come with the package, by name: 'tune' is configs/tune.py.

The repository has one copy of them, in `configs/`. The wheel carries the same files as
`jax_prompt/configs`.
"""

import difflib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def config_folder() -> Path:
    """Returns the folder of the package's configurations: installed, or beside it in a checkout."""
    installed = _PACKAGE / 'configs'
    return installed if installed.is_dir() else _PACKAGE.parent / 'configs'


def config_names() -> list[str]:
    """Returns the names of the package's configurations, sorted."""
    return sorted(path.stem for path in config_folder().glob('*.py'))


def find_config(asked: str) -> str:
    """Returns 'FILE' or 'FILE:ARGUMENT' for the value of --config.

    Args:
      asked: 'NAME', or 'FILE' where it ends in .py or is a path; with ':ARGUMENT' or without.

    Raises:
      ValueError: no configuration has that name, or no file lies there; names what is near.
    """
    first, colon, argument = asked.partition(':')
    path = Path(first).expanduser()
    if path.is_file():
        return f'{path}{colon}{argument}'
    names = config_names()
    if first in names:
        return f'{config_folder() / first}.py{colon}{argument}'
    allowed = f'allowed: a file, or one of {", ".join(names)}'
    if path.suffix == '.py' or path.parent != Path('.'):
        near = path.stem if path.stem in names else ''
        hint = f'; the package has this one by name: --config {near}{colon}{argument}'
        raise ValueError(f'no config file {first}{hint if near else _there(path)}; {allowed}')
    near = next(iter(difflib.get_close_matches(first, names, n=1)), '')
    hint = f'; did you mean {near}?' if near else ''
    raise ValueError(f'no configuration {first!r}{hint}; {allowed}')


def _there(path: Path) -> str:
    """Lists the Python files of a path's folder."""
    folder = path.parent
    near = sorted(one.as_posix() for one in folder.glob('*.py')) if folder.is_dir() else []
    return f'; there are {", ".join(near)}' if near else ''
