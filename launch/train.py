"""The command `jax-prompt train`, from a checkout."""

import sys

from jax_prompt.cli.main import main

if __name__ == '__main__':
    main(['train', *sys.argv[1:]])
