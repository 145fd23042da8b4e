"""Pack: jax-prompt pack RUN FILE [--card PAGE].

    jax-prompt pack runs/mine mine.safetensors --card mine.md

Writes a finished run as one small file: tuner, head, classes, accuracies, and which backbone it
needs. `predict`, `evaluate` and `jax_prompt.load` take it in the place of the run. --card writes a
page of Markdown that says what the file is and what it was measured on.
"""

from collections.abc import Sequence

from jax_prompt.cli.parser import make_parser
from jax_prompt.core.files import whole_file
from jax_prompt.core.tree import count
from jax_prompt.door import user_path
from jax_prompt.packs.card import card
from jax_prompt.packs.file import write_pack


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the pack and says what is in it."""
    parser = make_parser('pack', __doc__)
    parser.add_argument('run', type=user_path, help='a finished run')
    parser.add_argument('file', type=user_path, help='the pack to write, NAME.safetensors')
    parser.add_argument('--card', type=user_path, help='a page about it, NAME.md')
    parser.add_argument('--weights', default='', help="the backbone's file, if it moved")
    args = parser.parse_args(arguments)
    pack = write_pack(args.run, args.file, args.weights)
    if args.card:
        with whole_file(args.card) as page:
            page.write(card(pack, args.file.stem).encode())
    size = args.file.stat().st_size
    backbone = pack.header.backbone
    print(f'wrote {count(pack.tree):,} parameters to {args.file} ({size / 1e3:,.0f} kB)')
    print(f'it needs {backbone.label}, sha256 {backbone.sha256}')
