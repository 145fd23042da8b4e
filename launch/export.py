"""The command `jax-prompt export`, from a checkout."""

import sys

from jax_prompt.cli.main import main

if __name__ == '__main__':
    main(['export', *sys.argv[1:]])
