"""The command `jax-prompt train`, from a checkout."""

import sys

from jax_prompt.cli.train import main
from jax_prompt.door import enter

if __name__ == '__main__':
    enter(main, sys.argv[1:])
