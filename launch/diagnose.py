"""The command `jax-prompt diagnose`, from a checkout."""

import sys

from jax_prompt.cli.main import main

if __name__ == '__main__':
    main(['diagnose', *sys.argv[1:]])
