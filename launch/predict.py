"""The command `jax-prompt predict`, from a checkout."""

import sys

from jax_prompt.cli.main import main

if __name__ == '__main__':
    main(['predict', *sys.argv[1:]])
