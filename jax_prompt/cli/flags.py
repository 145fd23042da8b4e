"""The flags of commands with a --config: read, checked and explained.

`--config` names a configuration of the package, as 'tune:method=lora', or a file with
get_config(arg), as 'configs/tune.py:method=lora'. All these commands take --compilation_cache.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

from jax_prompt.suite.keys import check_flags, describe, load_config
from jax_prompt.suite.named_configs import config_names

_CACHE = os.path.join(os.path.expanduser('~'), '.cache', 'jax_prompt', 'xla')
_HELP = {'--help', '-h', '-help', '--helpshort', '--helpfull'}


def read_flags(
    found: Any, argv: Sequence[str], command: str, text: str | None, required: Sequence[str]
) -> None:
    """Reads a command line; `--config X --help` lists the keys of that config and ends.

    It quietens Orbax and sets the compilation cache.

    Args:
      found: absl's FlagValues with the command's own flags; `config` is added.
      argv: the words after the command's name.
      command: its name.
      text: its docstring.
      required: flags that have to be given.

    Raises:
      ValueError: a wrong flag, an unknown key, no such config, or a word that is no flag.
    """
    from absl import flags, logging
    from ml_collections import config_flags

    words, asked = _without_config(argv)
    asks_help = bool(_HELP & set(words))
    program = [f'jax-prompt {command}', *words]
    config = None if asked is None else load_config(asked)
    if config is not None:
        if asks_help:
            print(f'{describe(config)}\n\nOther flags: jax-prompt {command} --help')
            sys.exit(0)
        check_flags(config, words)
    said = 'A configuration: NAME[:k=v,k=v], or FILE[:k=v,k=v] with get_config(arg).'
    told = "Where compiled programs are kept between runs; '' keeps none."
    try:
        flags.DEFINE_string('compilation_cache', _CACHE, told, flag_values=found)
        if config is None:
            flags.DEFINE_string('config', None, said, flag_values=found)
        else:
            define = config_flags.DEFINE_config_dict
            define('config', config, said, flag_values=found, sys_argv=program)
        if asks_help:
            print(f'{(text or "").strip()}\n\n{_listed(found)}')
            sys.exit(0)
        left = found(program)[1:]
    except flags.Error as error:
        raise ValueError(' '.join(str(error).split())) from error
    missing = [f'--{name}' for name in required if found[name].value is None]
    if missing:
        raise ValueError(f'{" and ".join(missing)} missing; see jax-prompt {command} --help')
    if left:
        raise ValueError(f'unknown arguments {left}; options start with --')
    logging.set_verbosity(logging.WARNING)  # Orbax tells of each file at INFO
    _keep_programs(found.compilation_cache)


def _without_config(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Splits a command line into its other words and the last value of --config, None without.

    Raises:
      ValueError: --config without a value.
    """
    words, asked = list[str](), None
    rest = iter(argv)
    for one in rest:
        name, equals, value = one.lstrip('-').partition('=')
        if not one.startswith('-') or name != 'config':
            words.append(one)
            continue
        asked = value if equals else next(rest, '')
        if not asked:
            raise ValueError(f'--config has no value; allowed: a file, or {config_names()}')
    return words, asked


def _listed(found: Any) -> str:
    """Lists flags with what they mean."""
    lines = ['flags:']
    for name in found:
        flag = found[name]
        shown = f'--[no]{name}' if flag.boolean else f'--{name}={flag.default or ""}'
        lines += [f'  {shown}', f'      {flag.help}']
    return '\n'.join(lines)


def _keep_programs(folder: str) -> None:
    import jax

    if folder:
        jax.config.update('jax_compilation_cache_dir', os.path.expanduser(folder))
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
