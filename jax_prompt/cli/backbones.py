"""The table of backbones: jax-prompt backbones [--urls].

A backbone's name is arch.tag; arch alone means its first row. The last column says where its
weights are: here, or who publishes them. --config.weights=auto fetches them, --config.weights=FILE
takes your own copy. px is the side of the images that the weights were made for.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

from jax_prompt.backbones.table import TABLE, Entry
from jax_prompt.cli.parser import make_parser
from jax_prompt.cli.table import print_table
from jax_prompt.weights.cache import cached_file
from jax_prompt.weights.fetch import web_address


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row a backbone."""
    parser = make_parser('backbones', __doc__)
    parser.add_argument('--urls', action='store_true', help='whole addresses of published weights')
    args = parser.parse_args(arguments)
    rows = []
    for entry in TABLE.values():
        note = '; '.join(filter(None, (entry.note, entry.licence)))
        rows.append((entry.name, f'{entry.config.image_size}', note, where(entry, args.urls)))
    print_table(('backbone', 'px', 'trained on', 'weights'), rows)


def where(entry: Entry, urls: bool) -> str:
    """Says where the weights of a backbone are.

    Args:
      entry: the backbone.
      urls: whether a published file is named by its address; else by its publisher's host.
    """
    if entry.packaged:
        return 'here: in the package'
    fetched, address = cached_file(entry), web_address(entry.url)
    if fetched.is_file():
        return f'here: {fetched}'
    return address if urls else urlsplit(address).netloc
