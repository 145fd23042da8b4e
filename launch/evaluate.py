"""The command `jax-prompt evaluate`, from a checkout."""

import sys

from jax_prompt.cli.main import main

if __name__ == '__main__':
    main(['evaluate', *sys.argv[1:]])
