"""The command `jax-prompt export`, from a checkout."""

import sys

from jax_prompt.door import enter

if __name__ == '__main__':
    enter('jax_prompt.cli.export', sys.argv[1:])
