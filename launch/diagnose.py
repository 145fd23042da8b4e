"""The command `jax-prompt diagnose`, from a checkout."""

import sys

from jax_prompt.door import enter

if __name__ == '__main__':
    enter('jax_prompt.cli.diagnose', sys.argv[1:])
