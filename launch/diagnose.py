"""The command `jax-prompt diagnose`, from a checkout."""

import sys

from jax_prompt.cli.diagnose import main
from jax_prompt.door import enter

if __name__ == '__main__':
    enter(main, sys.argv[1:])
