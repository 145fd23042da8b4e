"""The command `jax-prompt curves`, from a checkout."""

import sys

from jax_prompt.cli.main import main

if __name__ == '__main__':
    main(['curves', *sys.argv[1:]])
