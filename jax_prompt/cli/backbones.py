"""The table of backbones: jax-prompt backbones.

A backbone's name is arch.tag; arch alone means its first row. The last column says where its
weights are: here, or where they are published. --config.weights=auto fetches them,
--config.weights=FILE takes your own copy.
"""

from collections.abc import Sequence

from jax_prompt.backbones.table import TABLE, Entry
from jax_prompt.cli.parser import make_parser
from jax_prompt.cli.table import format_table
from jax_prompt.weights.cache import cached_file
from jax_prompt.weights.fetch import web_address


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row a backbone."""
    make_parser('backbones', __doc__).parse_args(arguments)
    rows = [
        (entry.name, f'{entry.config.image_size}', entry.note, where(entry))
        for entry in TABLE.values()
    ]
    print(format_table(('backbone', 'px', 'trained on', 'weights'), rows))


def where(entry: Entry) -> str:
    """Says where the weights of a backbone are."""
    if entry.packaged:
        return 'here: in the package'
    fetched = cached_file(entry)
    licence = f' (licence {entry.licence})' if entry.licence else ''
    return f'here: {fetched}' if fetched.is_file() else f'{web_address(entry.url)}{licence}'
