"""The command `jax-prompt prepare-data`, from a checkout."""

import sys

from jax_prompt.door import enter

if __name__ == '__main__':
    enter('jax_prompt.cli.prepare_data', sys.argv[1:])
