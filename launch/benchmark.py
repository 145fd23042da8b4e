"""The command `jax-prompt benchmark`, from a checkout."""

import sys

from jax_prompt.door import enter

if __name__ == '__main__':
    enter('jax_prompt.cli.benchmark', sys.argv[1:])
