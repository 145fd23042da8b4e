"""The command `jax-prompt plan`, from a checkout."""

import sys

from jax_prompt.door import enter

if __name__ == '__main__':
    enter('jax_prompt.cli.plan', sys.argv[1:])
