"""The backbones by name: `arch.tag` -> configuration, source of the weights, normalisation.

An architecture says what the network is; a tag says which weights, and with them how images are
normalised: with the wrong mean and std a ViT-Ti of the table falls from 83 to 50 % on ImageNet. An
architecture alone means its first tag. Nothing is downloaded here; `find_weights` says where a file
is to be had, and `weights.fetch` brings it if it is asked to.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path

from jax_prompt.backbones.architectures import ARCHITECTURES
from jax_prompt.backbones.entry import Entry
from jax_prompt.backbones.published import ENTRIES

__all__ = ['ENTRIES', 'TABLE', 'Entry', 'find_weights', 'lookup', 'tags']

TABLE: Mapping[str, Entry] = ENTRIES


def tags(arch: str) -> list[str]:
    """Returns the names `arch.tag` of an architecture, the default first."""
    return [name for name, entry in TABLE.items() if entry.arch == arch]


def lookup(name: str) -> Entry:
    """Returns the entry of a backbone.

    Args:
      name: 'arch.tag', or 'arch' for the architecture's default tag.

    Raises:
      ValueError: there is no such architecture or tag; names the nearest.
    """
    if name in TABLE:
        return TABLE[name]
    if name in ARCHITECTURES:
        return TABLE[tags(name)[0]]
    arch, _, tag = name.partition('.')
    if arch in ARCHITECTURES:
        known = [full.split('.', 1)[1] for full in tags(arch)]
        raise ValueError(f"backbone '{arch}' has no tag '{tag}'; allowed: {known}")
    near = difflib.get_close_matches(name, [*ARCHITECTURES, *TABLE], n=4, cutoff=0.4)
    raise ValueError(
        f"no backbone '{name}'; nearest: {near or 'none'}; architectures: {sorted(ARCHITECTURES)}"
    )


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
        packaged = Path(__file__).parent / entry.filename
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
