"""The command `jax-prompt benchmark`, from a checkout."""

import sys

from jax_prompt.cli.main import main

if __name__ == '__main__':
    main(['benchmark', *sys.argv[1:]])
