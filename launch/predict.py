"""Predict: python launch/predict.py --workdir DIR IMAGE_OR_FOLDER ... [--top 5] [--format jsonl].

Images in, the most probable classes out: a table, or a JSON line an image.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jax_prompt.core.printable import printable
from jax_prompt.train.restore import Restored, restore

_SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff', '.ppm', '.pgm'}


def find_images(paths: Sequence[str]) -> list[Path]:
    """Returns the image files among the paths and in the folders among them, in a fixed order.

    Raises:
      FileNotFoundError: a path that isn't there, or a folder without images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob('*') if p.suffix.lower() in _SUFFIXES)
            if not inside:
                raise FileNotFoundError(f'no images in {path}; suffixes: {sorted(_SUFFIXES)}')
            found.extend(inside)
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f'no such file or folder: {path}')
    return found


def rows(run: Restored, images: list[Path], top: int, chunk: int = 1024) -> Iterator[dict]:
    """Yields {'image', 'predictions': [{'class', 'probability'}, ...]} for each image."""
    for start in range(0, len(images), chunk):
        part = images[start : start + chunk]
        for path, probabilities in zip(part, run.predict(part), strict=True):
            best = np.argsort(-probabilities, kind='stable')[:top]
            predictions = [
                {'class': run.classes[k], 'probability': round(float(probabilities[k]), 6)}
                for k in best
            ]
            yield {'image': str(path), 'predictions': predictions}


def main() -> None:
    """Prints a row an image."""
    parser = argparse.ArgumentParser(description='Predict the classes of images.')
    parser.add_argument('images', nargs='+', help='image files and folders of them')
    parser.add_argument('--workdir', required=True, help='a finished run')
    parser.add_argument('--top', type=int, default=5, help='classes shown an image')
    parser.add_argument('--format', choices=('table', 'jsonl'), default='table')
    args = parser.parse_args()
    if args.top < 1:
        parser.error(f'--top is {args.top}; at least 1')
    try:
        images = find_images(args.images)
        run = restore(args.workdir)
        for row in rows(run, images, args.top):
            if args.format == 'jsonl':
                print(json.dumps(row))
                continue
            shown = (f'{p["class"]} {100 * p["probability"]:.1f} %' for p in row['predictions'])
            print('\t'.join(map(printable, (row['image'], *shown))))
    except (ValueError, FileNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)


if __name__ == '__main__':
    main()
