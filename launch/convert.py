"""The command `jax-prompt convert`, from a checkout."""

import sys

from jax_prompt.cli.convert import main
from jax_prompt.door import enter

if __name__ == '__main__':
    enter(main, sys.argv[1:])
