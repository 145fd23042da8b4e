"""The command `jax-prompt report`, from a checkout."""

import sys

from jax_prompt.cli.main import main

if __name__ == '__main__':
    main(['report', *sys.argv[1:]])
