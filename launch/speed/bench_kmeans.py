"""Times the k-means of SPT's prompts, by default for the size of CUB-200-2011 and ViT-B.

The paper (arXiv 2402.02382, Table 1) reports 27.3 days for this job: 5,394 images x 196 tokens, 768
channels, 12 layers, 20 prompts. Tokens here are synthetic, mixtures of gaussians made on the
device, so the figure is k-means alone (seeding included): no forward passes, no reading of images.
Real tokens take another number of iterations; `seconds_per_iteration` tells the scale.

    python launch/speed/bench_kmeans.py --out kmeans.json           # all, on an accelerator
    python launch/speed/bench_kmeans.py --images 64 --layers 1 --max_iter 30 --sklearn # CPU

With --sklearn, scikit-learn's Lloyd runs on the same tokens from the same centres with the same
tolerance and limit of iterations, on the host's CPU.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_prompt.calibrate.kmeans import kmeans, lloyd, plus_plus
from jax_prompt.door import enter

PAPER_SECONDS = 27.3 * 86400


@functools.partial(jax.jit, static_argnames=('num_points', 'width', 'num_modes', 'spread'))
def synthetic(key, num_points: int, width: int, num_modes: int = 64, spread: float = 1.0):
    """Returns points [n, D] float32 of gaussians (deviation 1) around modes (`spread`)."""
    mode_key, which_key, noise_key = jax.random.split(key, 3)
    modes = spread * jax.random.normal(mode_key, (num_modes, width))
    which = jax.random.randint(which_key, (num_points,), 0, num_modes)
    return modes[which] + jax.random.normal(noise_key, (num_points, width))


def timed(function, *args, **kwargs) -> tuple[float, Any]:
    """Returns (seconds, result), the result ready."""
    begin = time.perf_counter()
    result = jax.block_until_ready(function(*args, **kwargs))
    return time.perf_counter() - begin, result


def beside_scikit_learn(points, seed_key, args) -> dict[str, Any]:
    """Times Lloyd here and in scikit-learn from the same centres, alternately; medians."""
    from sklearn.cluster import KMeans

    init = plus_plus(seed_key, points, args.prompts)
    host, start = np.asarray(points), np.asarray(init)
    options = {'max_iter': args.max_iter, 'tol': args.tol}
    jax.block_until_ready(lloyd(points, init, **options))  # compiles
    ours, theirs = [], []
    for _ in range(args.repeats):
        seconds, result = timed(lloyd, points, init, **options)
        ours.append(seconds)
        reference = KMeans(args.prompts, init=start, n_init=1, algorithm='lloyd', **options)
        theirs.append(timed(reference.fit, host)[0])
    return {
        'lloyd_seconds': statistics.median(ours),
        'sklearn_seconds': statistics.median(theirs),
        'sklearn_over_ours': statistics.median(theirs) / statistics.median(ours),
        'iterations': int(result.num_iter),
        'sklearn_iterations': int(reference.n_iter_),
        'inertia': float(result.inertia),
        'sklearn_inertia': float(reference.inertia_),
        'max_centre_difference': float(np.abs(result.centres - reference.cluster_centers_).max()),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the job layer after layer and returns its figures."""
    num_points = args.images * args.tokens
    options = {'max_iter': args.max_iter, 'tol': args.tol}
    key = jax.random.key(args.seed)
    layers, side = [], []
    compile_seconds = 0.0
    for layer in range(args.layers):
        token_key, seed_key = jax.random.split(jax.random.fold_in(key, layer))
        points = jax.block_until_ready(
            synthetic(token_key, num_points, args.width, spread=args.spread)
        )
        if layer == 0:
            compile_seconds = timed(kmeans, seed_key, points, args.prompts, **options)[0]
        runs = [
            timed(kmeans, seed_key, points, args.prompts, **options) for _ in range(args.repeats)
        ]
        result = runs[0][1]
        seconds = statistics.median(run[0] for run in runs)
        layers.append(
            {
                'seconds': seconds,
                'iterations': int(result.num_iter),
                'seconds_per_iteration': seconds / int(result.num_iter),
                'inertia': float(result.inertia),
                'converged': bool(result.converged),
            }
        )
        if args.sklearn:
            side.append(beside_scikit_learn(points, seed_key, args))
        del points, runs
    total = sum(layer['seconds'] for layer in layers)
    whole = (args.images, args.tokens, args.width, args.layers, args.prompts)
    figures: dict[str, Any] = {
        'seconds': total,
        'first_call_seconds': compile_seconds,  # compilation and one run
        'seconds_per_iteration': statistics.median(x['seconds_per_iteration'] for x in layers),
        'layers': layers,
    }
    if whole == (5394, 196, 768, 12, 20):
        figures['paper_seconds_over_ours'] = PAPER_SECONDS / total
    if side:
        figures['beside_sklearn'] = side
    return figures


def machine(with_sklearn: bool) -> dict[str, Any]:
    """Returns what ran this, and the versions."""
    versions = {
        'python': platform.python_version(),
        'jax': jax.__version__,
        'numpy': np.__version__,
    }
    if with_sklearn:
        import sklearn

        versions['scikit-learn'] = sklearn.__version__
    device = jax.devices()[0]
    return {
        'device': f'{device.platform} {device.device_kind}',
        'processor': platform.machine(),
        'cpu_cores': os.cpu_count(),
        'versions': versions,
    }


def main() -> None:
    """Parses the arguments, measures, prints and writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--images', type=int, default=5394)
    parser.add_argument('--tokens', type=int, default=196, help='tokens of an image')
    parser.add_argument('--width', type=int, default=768, help='channels')
    parser.add_argument('--layers', type=int, default=12)
    parser.add_argument('--prompts', type=int, default=20, help='clusters of a layer')
    parser.add_argument('--spread', type=float, default=0.3, help='deviation of the modes')
    parser.add_argument('--max_iter', type=int, default=100)
    parser.add_argument('--tol', type=float, default=1e-4)
    parser.add_argument('--repeats', type=int, default=3, help='runs; their median is reported')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--sklearn', action='store_true', help='scikit-learn on the same tokens')
    parser.add_argument('--out', type=Path, help='also write the JSON here')
    args = parser.parse_args()
    report = {
        'what': 'k-means of synthetic tokens (mixture of gaussians), without forward passes',
        'arguments': {key: str(v) if isinstance(v, Path) else v for key, v in vars(args).items()},
        **machine(args.sklearn),
        **measure(args),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + '\n')


if __name__ == '__main__':
    enter(main)
