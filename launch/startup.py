"""What the scripts with a --config do first; all take --compilation_cache."""

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import jax
from absl import app, flags, logging

from jax_prompt.door import enter
from jax_prompt.suite.keys import check_flags, describe, load_config

_COMPILED = flags.DEFINE_string(
    'compilation_cache',
    os.path.join(os.path.expanduser('~'), '.cache', 'jax_prompt', 'xla'),
    "Where compiled programs are kept between runs; '' keeps none.",
)


def run(main: Callable[[list[str]], Any], required: list[str]) -> NoReturn:
    """Reads the command line and runs main through the door.

    Args:
      main: takes what is left of the command line.
      required: flags that have to be given.
    """
    flags.adopt_module_key_flags(sys.modules[__name__])
    enter(lambda: app.run(main, flags_parser=lambda argv: _parse(argv, required)))


def _parse(argv: list[str], required: list[str]) -> list[str]:
    """Parses the flags; `--config X --help` lists the keys of that config and ends.

    Raises:
      ValueError: a wrong flag, an unknown key, no such config.
    """
    asked = _config_of(argv)
    if asked is not None:
        config = load_config(asked)
        if {'--help', '-h', '-help', '--helpshort', '--helpfull'} & set(argv):
            print(f'{describe(config)}\n\nOther flags: {argv[0]} --help')
            sys.exit(0)
        check_flags(config, argv)
    try:
        left = flags.FLAGS(argv)
    except flags.Error as error:
        raise ValueError(' '.join(str(error).split())) from error
    missing = [f'--{name}' for name in required if flags.FLAGS[name].value is None]
    if missing:
        raise ValueError(f'{" and ".join(missing)} missing; see {argv[0]} --help')
    return left


def _config_of(argv: list[str]) -> str | None:
    """Returns the value of --config, None where it is not given."""
    found = None
    for place, one in enumerate(argv):
        name, equals, value = one.lstrip('-').partition('=')
        if one.startswith('-') and name == 'config':
            found = value if equals else (argv[place + 1] if place + 1 < len(argv) else '')
    return found


def start(argv: list[str]) -> None:
    """Refuses arguments that are no flags, quietens Orbax and sets the compilation cache.

    Args:
      argv: what `app.run` gives to main.

    Raises:
      ValueError: an argument that is no flag.
    """
    if len(argv) > 1:
        raise ValueError(f'unknown arguments {argv[1:]}; options start with --')
    logging.set_verbosity(logging.WARNING)  # Orbax tells of each file at INFO
    if _COMPILED.value:
        folder = os.path.expanduser(_COMPILED.value)
        jax.config.update('jax_compilation_cache_dir', folder)
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
