"""The command `jax-prompt curves`, from a checkout."""

import sys

from jax_prompt.door import enter

if __name__ == '__main__':
    enter('jax_prompt.cli.curves', sys.argv[1:])
