"""Writes what a finished run trained as a weights file, which is read as a plain backbone.

    jax-prompt export --workdir DIR --out mine.safetensors [--head] [--dtype float16]

Methods that train the backbone itself (full, retrain, partial, bias) and those that change its
weights (lora, ssf) can be exported; docs/weights.md says more.
"""

import json
from collections.abc import Sequence

from jax_prompt.cli.parser import make_parser
from jax_prompt.core.tree import count
from jax_prompt.door import user_path
from jax_prompt.runs.export import exported
from jax_prompt.runs.restore import restore
from jax_prompt.weights.load import save_converted


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the file and prints its identity."""
    parser = make_parser('export', __doc__)
    parser.add_argument('--workdir', required=True, type=user_path, help='a finished run')
    parser.add_argument('--weights', default='', help="the backbone's file, if it moved")
    parser.add_argument('--out', required=True, type=user_path, help='safetensors file to write')
    parser.add_argument('--dtype', default='float32', help='float32, float16 or bfloat16')
    parser.add_argument('--head', action='store_true', help='keep the classifier head too')
    parser.add_argument('--name', default='', help='tag of the weights; default: what they are')
    args = parser.parse_args(arguments)
    made = exported(restore(args.workdir, args.weights), args.name)
    if not made.changed and not args.head:
        raise ValueError(
            'this run left the backbone as it was, so that only its head is new: export that '
            'with --head'
        )
    head = made.head if args.head else None
    save_converted(args.out, made.tree, made.identity, args.dtype, head=head, classes=made.classes)
    for note in made.notes:
        print(f'note: {note}')
    parts = 'backbone and head' if args.head else 'backbone, without the head (--head keeps it)'
    print(f'wrote {count(made.tree):,} parameters of the {parts} as {args.dtype} to {args.out}')
    print(json.dumps(made.identity.to_dict(), indent=2))
