"""The command `jax-prompt plan`, from a checkout."""

import sys

from jax_prompt.cli.main import main

if __name__ == '__main__':
    main(['plan', *sys.argv[1:]])
