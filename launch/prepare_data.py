"""The command `jax-prompt prepare-data`, from a checkout."""

import sys

from jax_prompt.cli.main import main

if __name__ == '__main__':
    main(['prepare-data', *sys.argv[1:]])
