"""The command `jax-prompt convert`, from a checkout."""

import sys

from jax_prompt.door import enter

if __name__ == '__main__':
    enter('jax_prompt.cli.convert', sys.argv[1:])
