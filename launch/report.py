"""The command `jax-prompt report`, from a checkout."""

import sys

from jax_prompt.door import enter

if __name__ == '__main__':
    enter('jax_prompt.cli.report', sys.argv[1:])
