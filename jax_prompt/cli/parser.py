"""The argument parser of commands without a --config: their docstring is their help."""

import argparse


def make_parser(command: str, text: str | None) -> argparse.ArgumentParser:
    """Returns a parser that shows a module's docstring as it stands.

    Args:
      command: name of the command.
      text: the docstring.
    """
    return argparse.ArgumentParser(
        prog=f'jax-prompt {command}',
        description=(text or '').strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
