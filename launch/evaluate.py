"""Evaluate a finished run: python launch/evaluate.py --workdir DIR [--split test] [--data DATA]."""

import argparse
import json

from jax_prompt.door import enter, user_path
from jax_prompt.train.restore import restore


def main() -> None:
    """Prints accuracy and loss as a JSON line."""
    parser = argparse.ArgumentParser(description='Evaluate a finished run.')
    parser.add_argument('--workdir', required=True, type=user_path, help='the run directory')
    parser.add_argument('--weights', default='', help="the backbone's file, if it moved")
    parser.add_argument('--split', default='test', help='train, val or test')
    parser.add_argument('--data', default='', help="other data with the run's classes")
    args = parser.parse_args()
    print(json.dumps(restore(args.workdir, args.weights).evaluate(args.split, args.data)))


if __name__ == '__main__':
    enter(main)
