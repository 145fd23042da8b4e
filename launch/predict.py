"""The command `jax-prompt predict`, from a checkout."""

import sys

from jax_prompt.door import enter

if __name__ == '__main__':
    enter('jax_prompt.cli.predict', sys.argv[1:])
