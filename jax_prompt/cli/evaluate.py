"""Evaluate a finished run or a pack: jax-prompt evaluate --workdir DIR_OR_PACK [--data DATA].

Other data may be a folder with one subfolder a class: all its images are evaluated.
"""

import json
import sys
from collections.abc import Sequence

from jax_prompt.cli.parser import make_parser
from jax_prompt.door import user_path
from jax_prompt.packs.load import open_tuned


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints accuracy and loss as a JSON line."""
    parser = make_parser('evaluate', __doc__)
    parser.add_argument(
        '--workdir', required=True, type=user_path, help='a finished run, or a pack'
    )
    parser.add_argument('--weights', default='', help="the backbone's file, if it moved")
    parser.add_argument('--split', default='test', help='train, val or test')
    parser.add_argument('--data', default='', help="other data; its classes are among the run's")
    args = parser.parse_args(arguments)
    found = open_tuned(args.workdir, args.weights).evaluate(args.split, args.data)
    print(json.dumps(found))
    if 'data_changed' in found:
        print(
            f'note: the data has changed since the run was trained: {found["data_changed"]}. '
            'Evaluated are the images that the run had',
            file=sys.stderr,
        )
    if 'seen_in_training' in found:
        print(f'note: this run was trained on {args.split}', file=sys.stderr)
