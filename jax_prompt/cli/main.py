"""The command `jax-prompt COMMAND ...`: finds the command's module and runs it through the door."""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from jax_prompt import __version__
from jax_prompt.door import enter

# By name: the module, imported when it is asked for, and a line for the table of commands.
COMMANDS = {
    'train': ('jax_prompt.cli.train', 'tune a backbone to a task; start again to go on'),
    'plan': ('jax_prompt.cli.plan', 'memory and traffic of a run, on these devices or a TPU slice'),
    'evaluate': (
        'jax_prompt.cli.evaluate',
        'accuracy and loss of a finished run, on its data or on other data',
    ),
    'predict': ('jax_prompt.cli.predict', 'the most probable classes of images'),
    'pack': ('jax_prompt.cli.pack', 'a tuned task as one small file, to predict with elsewhere'),
    'export': ('jax_prompt.cli.export', "a run's network as weights, read as a plain backbone"),
    'serve': ('jax_prompt.cli.serve', 'many tuned tasks from one backbone, over HTTP'),
    'benchmark': (
        'jax_prompt.cli.benchmark',
        'many tasks and seeds, shared by any number of machines',
    ),
    'report': (
        'jax_prompt.cli.report',
        'tables and plots of a benchmark, beside the figures of the papers',
    ),
    'curves': ('jax_prompt.cli.curves', 'finished runs side by side: a table and a picture'),
    'diagnose': ('jax_prompt.cli.diagnose', 'pictures of what a run does inside'),
    'convert': ('jax_prompt.cli.convert', "a checkpoint as the package's own file"),
    'prepare-data': ('jax_prompt.cli.prepare_data', 'download and prepare the data of named tasks'),
    'methods': ('jax_prompt.cli.methods', 'the table of methods'),
    'backbones': (
        'jax_prompt.cli.backbones',
        'the table of backbones, and which weights are on this machine',
    ),
    'tasks': (
        'jax_prompt.cli.tasks',
        'the table of named tasks, and which data is on this machine',
    ),
}

_HEAD = 'jax-prompt tunes frozen vision backbones with a few thousand parameters.'
_EXAMPLES = """\
  jax-prompt train --config tune:method=spt_deep --config.data=FOLDER --workdir runs/mine
  jax-prompt predict --workdir runs/mine IMAGE_OR_FOLDER
  jax-prompt train --config tune --help        every setting of a configuration
  jax-prompt COMMAND --help                    the flags of a command"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and ends the process.

    Args:
      argv: the words after `jax-prompt`; None: those of this process.
    """
    enter(run_command, list(sys.argv[1:] if argv is None else argv))


def run_command(words: Sequence[str]) -> int | None:
    """Runs a command; returns its exit code, None for 0.

    Args:
      words: the command's name and its own arguments.

    Raises:
      ValueError: there is no such command; the nearest is named.
    """
    name, *rest = words or ['--help']
    if name in ('--help', '-h', 'help'):
        print(overview())
        return 0
    if name == '--version':
        print(f'jax-prompt {__version__}')
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name.replace('_', '-'), COMMANDS, n=1)
        hint = f'; did you mean {near[0]}?' if near else ''
        raise ValueError(f'no command {name!r}{hint} Allowed: {", ".join(COMMANDS)}')
    return import_module(COMMANDS[name][0]).main(rest)


def overview() -> str:
    """Returns the text of `jax-prompt --help`: what each command does."""
    width = max(map(len, COMMANDS))
    lines = [f'  {name:{width}}  {text}' for name, (_, text) in COMMANDS.items()]
    return '\n'.join(
        [_HEAD, '', 'commands:', *lines, '', 'examples:', _EXAMPLES, '', f'version {__version__}']
    )
