"""Where the file with a backbone's weights is, or is to be had."""

from pathlib import Path

from jax_prompt.backbones import table
from jax_prompt.backbones.table import Entry, lookup, tags


def find_weights(name: str, path: str | Path | None = None) -> Path:
    """Returns the file with a backbone's weights.

    Args:
      name: 'arch.tag' or 'arch'.
      path: the user's file; None for weights that ship with the package.

    Raises:
      FileNotFoundError: the file is not there; says where it is published and how to pass it.
    """
    entry = lookup(name)
    if path:
        file = Path(path).expanduser()
        if file.exists():
            return file
        raise FileNotFoundError(f'no weights at {path}. {_advice(entry)}')
    if entry.packaged:
        packaged = Path(table.__file__).parent / entry.filename  # they lie beside it
        if packaged.is_file():
            return packaged
        raise FileNotFoundError(
            f'{packaged} is missing; install the package again, or pass a file of your own: '
            f'--config.weights=FILE'
        )
    raise FileNotFoundError(f"backbone '{name}' needs a file with its weights. {_advice(entry)}")


def _advice(entry: Entry) -> str:
    if entry.packaged:
        return f"'{entry.name}' ships with the package: leave --config.weights empty"
    others = [full for full in tags(entry.arch) if full != entry.name]
    more = f' Other weights for it: {", ".join(others)}.' if others else ''
    return (
        f'Download {entry.name} from\n  {entry.url}\nand pass it as --config.weights=FILE '
        f'(for example --config.weights={entry.filename}), or let it be fetched: '
        f'--config.weights=auto.{more}'
    )
