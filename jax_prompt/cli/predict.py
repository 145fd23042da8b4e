"""Predict: jax-prompt predict --workdir DIR_OR_PACK IMAGE_OR_FOLDER ... [--format jsonl].

Images in, the most probable classes out: a table, or a JSON line an image. An image that can't
be read gets a row that says why, the others go on, and the exit code is 2.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_prompt.cli.parser import make_parser
from jax_prompt.core.printable import printable
from jax_prompt.data.files import find_images
from jax_prompt.data.source import Unreadable
from jax_prompt.door import user_path
from jax_prompt.packs.load import open_tuned
from jax_prompt.runs.restore import Restored


def rows(run: Restored, images: list[Path], top: int, chunk: int = 1024) -> Iterator[dict]:
    """Yields {'image', 'predictions': [{'class', 'probability'}, ...]} for each image.

    An image that can't be read has 'error' in place of 'predictions'.
    """
    for start in range(0, len(images), chunk):
        part = images[start : start + chunk]
        errors, probabilities = _predict(run, part)
        rest = iter(probabilities)
        for i, path in enumerate(part):
            row: dict[str, Any] = {'image': str(path)}
            if i in errors:
                yield row | {'error': errors[i]}
                continue
            one = next(rest)
            best = np.argsort(-one, kind='stable')[:top]
            predictions = [
                {'class': run.classes[k], 'probability': round(float(one[k]), 6)} for k in best
            ]
            yield row | {'predictions': predictions}


def _predict(run: Restored, images: list[Path]) -> tuple[dict[int, str], Sequence[np.ndarray]]:
    """Returns why images can't be read, by index, and the probabilities of the others."""
    try:
        return {}, list(run.predict(images))
    except Unreadable as error:
        errors = error.reasons
    readable = [path for i, path in enumerate(images) if i not in errors]
    return errors, list(run.predict(readable)) if readable else []


def _shown(row: dict[str, Any]) -> list[str]:
    """Returns the cells of a table's row after the image."""
    if 'error' in row:
        return [f'error: {row["error"]}']
    return [f'{p["class"]} {100 * p["probability"]:.1f} %' for p in row['predictions']]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row an image."""
    parser = make_parser('predict', __doc__)
    parser.add_argument('images', nargs='+', help='image files and folders of them')
    parser.add_argument(
        '--workdir', required=True, type=user_path, help='a finished run, or a pack'
    )
    parser.add_argument('--weights', default='', help="the backbone's file, if it moved")
    parser.add_argument('--top', type=int, default=5, help='classes shown an image')
    parser.add_argument('--format', choices=('table', 'jsonl'), default='table')
    args = parser.parse_args(arguments)
    if args.top < 1:
        parser.error(f'--top is {args.top}; at least 1')
    passed: list[Path] = []
    images = find_images(args.images, passed)
    if passed:
        named = ', '.join(printable(one.name) for one in passed[:5])
        text = f'passed over {len(passed)} that are hidden or no images: {named}'
        print(text, file=sys.stderr)
    run = open_tuned(args.workdir, args.weights)
    failed = []
    for row in rows(run, images, args.top):
        failed += [row['error']] if 'error' in row else []
        if args.format == 'jsonl':
            print(json.dumps(row))
            continue
        print('\t'.join(map(printable, (row['image'], *_shown(row)))))
    if failed:
        raise ValueError(f'{len(failed)} of {len(images)} images: {"; ".join(failed[:10])}')
