"""The command `jax-prompt train`, from a checkout."""

import sys

from jax_prompt.door import enter

if __name__ == '__main__':
    enter('jax_prompt.cli.train', sys.argv[1:])
