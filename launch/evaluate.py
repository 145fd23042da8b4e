"""The command `jax-prompt evaluate`, from a checkout."""

import sys

from jax_prompt.door import enter

if __name__ == '__main__':
    enter('jax_prompt.cli.evaluate', sys.argv[1:])
