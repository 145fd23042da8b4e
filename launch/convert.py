"""The command `jax-prompt convert`, from a checkout."""

import sys

from jax_prompt.cli.main import main

if __name__ == '__main__':
    main(['convert', *sys.argv[1:]])
