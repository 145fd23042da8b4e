"""What the scripts that train do first; both take --compilation_cache."""

import os

import jax
from absl import app, flags, logging

_COMPILED = flags.DEFINE_string(
    'compilation_cache',
    os.path.join(os.path.expanduser('~'), '.cache', 'jax_prompt', 'xla'),
    "Where compiled programs are kept between runs; '' keeps none.",
)


def start(argv: list[str]) -> None:
    """Refuses arguments that are no flags, quietens Orbax and sets the compilation cache.

    Args:
      argv: what `app.run` gives to main.

    Raises:
      app.UsageError: an argument that is no flag.
    """
    if len(argv) > 1:
        raise app.UsageError(f'unknown arguments {argv[1:]}; options start with --')
    logging.set_verbosity(logging.WARNING)  # Orbax tells of each file at INFO
    if _COMPILED.value:
        jax.config.update('jax_compilation_cache_dir', _COMPILED.value)
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
