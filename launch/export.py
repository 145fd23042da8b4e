"""Writes the backbone of a finished run as a weights file of its own.

    python launch/export.py --workdir DIR --out vit_micro.safetensors --dtype float16

For runs that train the backbone (`retrain`, `full`): what they learned becomes what others tune.
"""

import argparse
import hashlib
import json
import sys

from jax_prompt.backbones.table import lookup
from jax_prompt.core.tree import count, flatten
from jax_prompt.door import enter, user_path
from jax_prompt.train.restore import restore
from jax_prompt.weights.load import Identity, save_converted


def main() -> None:
    """Writes the file and prints its identity."""
    parser = argparse.ArgumentParser(description="Export a run's backbone.")
    parser.add_argument('--workdir', required=True, type=user_path, help='a finished run')
    parser.add_argument('--weights', default='', help="the backbone's file, if it moved")
    parser.add_argument('--out', required=True, type=user_path, help='safetensors file to write')
    parser.add_argument('--dtype', default='float32', help='float32, float16 or bfloat16')
    args = parser.parse_args()
    try:
        run = restore(args.workdir, args.weights)
        tree = run.backbone()
        digest = hashlib.sha256()
        for path, leaf in flatten(tree).items():
            digest.update(path.encode())
            digest.update(leaf.tobytes())
        identity = Identity(
            name=lookup(run.config.backbone).name,
            source=f'{run.config.method} on {run.result["data"]}',
            sha256=digest.hexdigest(),
            format='jax_prompt',
            mean=tuple(run.result['mean']),
            std=tuple(run.result['std']),
        )
        save_converted(args.out, tree, identity, args.dtype)
    except (ValueError, FileNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    print(f'wrote {count(tree):,} parameters as {args.dtype} to {args.out}')
    print(json.dumps(identity.to_dict(), indent=2))


if __name__ == '__main__':
    enter(main)
