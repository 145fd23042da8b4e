"""Converts a checkpoint into the package's own form, a safetensors file that knows what it is.

    jax-prompt convert --weights ViT-B_16.npz --backbone vit_b16_224.google_in21k \
        --out vit_b16.safetensors --dtype float16

Prints which names were used, which were skipped and why, and the identity that results will have.
"""

import json
import re
import sys
from collections.abc import Sequence

from jax_prompt.cli.parser import make_parser
from jax_prompt.core.tree import count
from jax_prompt.door import user_path
from jax_prompt.weights.families import FORMATS
from jax_prompt.weights.load import load_weights, save_converted


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = make_parser('convert', __doc__)
    parser.add_argument(
        '--weights', required=True, type=user_path, help='.npz, .safetensors or torch file'
    )
    parser.add_argument('--backbone', required=True, help='arch or arch.tag, e.g. vit_b16_224.mae')
    parser.add_argument('--out', required=True, type=user_path, help='safetensors file to write')
    parser.add_argument('--format', default='auto', help=f'auto or one of {", ".join(FORMATS)}')
    parser.add_argument('--dtype', default='float32', help='float32, float16 or bfloat16')
    parser.add_argument('--mean', type=float, nargs=3, help='overrides the normalisation')
    parser.add_argument('--std', type=float, nargs=3, help='overrides the normalisation')
    args = parser.parse_args(arguments)
    try:
        tree, report = load_weights(
            args.weights, args.backbone, format=args.format, mean=args.mean, std=args.std
        )
        if report.unsettled:
            raise ValueError(_with_these_options(report.unsettled))
        save_converted(args.out, tree, report.identity, args.dtype)
    except (ValueError, OSError) as error:
        print(f'not converted: {error}', file=sys.stderr)
        return 1
    print(report)
    print(f'wrote {count(tree):,} parameters as {args.dtype} to {args.out}; its identity:')
    print(json.dumps(report.identity.to_dict(), indent=2))
    return 0


def _with_these_options(text: str) -> str:
    """Returns an error of training with the options of this command in it."""
    options = {'--config.backbone=': '--backbone ', '--config.weights_format=': '--format '}
    for theirs, own in options.items():
        text = text.replace(theirs, own)
    numbers = r'--config\.model\.(mean|std)="\(([^)]*)\)"'
    return re.sub(numbers, lambda m: f'--{m[1]} {m[2].replace(",", "")}', text)
