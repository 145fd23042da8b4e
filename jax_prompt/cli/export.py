"""Export: jax-prompt export RUN_OR_PACK --out OUT [--format weights|stablehlo].

    jax-prompt export runs/mine --out mine.safetensors [--head] [--dtype float16]
    jax-prompt export mine.safetensors --format stablehlo --out mine [--arguments]

--format weights writes what a finished run trained as a weights file, which is read as a plain
backbone. Methods that train the backbone itself (full, retrain, partial, bias) and those that
change its weights (lora, ssf) can be exported so; docs/weights.md says more.

--format stablehlo writes a program that needs jax alone: uint8 images in, probabilities out.
--arguments keeps the weights beside the program; docs/serving.md says more.
"""

import argparse
import json
from collections.abc import Sequence

from jax_prompt.cli.parser import make_parser
from jax_prompt.core.tree import count
from jax_prompt.door import user_path
from jax_prompt.packs.load import open_tuned
from jax_prompt.runs.export import exported
from jax_prompt.runs.restore import restore
from jax_prompt.weights.load import save_converted


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the file or the folder, and prints what it is."""
    parser = make_parser('export', __doc__)
    parser.add_argument('run', nargs='?', type=user_path, help='a finished run; a pack: stablehlo')
    parser.add_argument('--workdir', type=user_path, help='the same as RUN')
    parser.add_argument('--weights', default='', help="the backbone's file, if it moved")
    parser.add_argument('--out', required=True, type=user_path, help='file or folder to write')
    parser.add_argument('--format', choices=('weights', 'stablehlo'), default='weights')
    parser.add_argument('--dtype', default='float32', help='float32, float16 or bfloat16')
    parser.add_argument('--head', action='store_true', help='keep the classifier head too')
    parser.add_argument('--name', default='', help='tag of the weights; default: what they are')
    parser.add_argument(
        '--arguments', action='store_true', help='of a program, keep the weights beside it'
    )
    args = parser.parse_args(arguments)
    args.run = args.run or args.workdir
    if args.run is None:
        parser.error('give a finished run')
    if args.format == 'stablehlo':
        _write_program(args)
    else:
        _write_weights(args)


def _write_program(args: argparse.Namespace) -> None:
    from jax_prompt.serve.export import export

    about = export(open_tuned(args.run, args.weights), args.out, args.arguments)
    shape = f'[B, {about["size"]}, {about["size"]}, 3]'
    print(
        f'wrote a program for {", ".join(about["platforms"])} to {args.out}: images {shape} uint8 '
        f'in, probabilities of {len(about["classes"])} classes out'
    )


def _write_weights(args: argparse.Namespace) -> None:
    made = exported(restore(args.run, args.weights), args.name)
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
