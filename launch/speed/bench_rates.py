"""The matrix products that a machine can do: the limit beside which a step's speed is read.

    python launch/speed/speed.py machine --size 2048 --turns 5

NumPy, JAX and PyTorch multiply two square matrices. In bfloat16 JAX does it twice, with a bfloat16
and with a float32 result: XLA's CPU backend is fast with the second alone.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def products(size: int) -> dict[str, Callable[[], Any]]:
    """Returns the products of [size, size] matrices by name; those of torch where it is there."""
    import jax
    import jax.numpy as jnp

    x = np.random.default_rng(0).standard_normal((size, size), np.float32)
    out: dict[str, Callable[[], Any]] = {'numpy float32': lambda: x @ x}
    full, half = jnp.asarray(x), jnp.asarray(x, jnp.bfloat16)
    plain = jax.jit(jnp.matmul)
    wide = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32))
    out['jax float32'] = lambda: plain(full, full).block_until_ready()
    out['jax bfloat16, bfloat16 result'] = lambda: plain(half, half).block_until_ready()
    out['jax bfloat16, float32 result'] = lambda: wide(half).block_until_ready()
    try:
        import torch
    except ImportError:
        return out
    own = torch.from_numpy(x)
    own_half = own.bfloat16()
    return out | {
        'torch float32': lambda: own @ own,
        'torch bfloat16': lambda: own_half @ own_half,
    }


def rate(dtype: str, turns: int = 5) -> dict[str, float]:
    """Measures the products of JAX whose share a step can reach, on the device of this process.

    Args:
      dtype: 'float32', or 'bfloat16' with a float32 result.
      turns: products; the fastest counts.

    Returns:
      {'size': side of the matrices, 'gflops': 10^9 operations a second}.
    """
    import jax
    import jax.numpy as jnp

    size = 2048 if jax.default_backend() == 'cpu' else 8192
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32))
    multiply(x).block_until_ready()
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        multiply(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return {'size': size, 'gflops': 2 * size**3 / 1e9 / min(seconds)}


def bench_machine(args: argparse.Namespace) -> dict[str, Any]:
    """Measures the rates in turns.

    Args:
      args: turns and size.

    Returns:
      {'rates': {name: [GFLOP/s of each turn]}}.
    """
    calls, work = products(args.size), 2 * args.size**3 / 1e9
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # compiles, or starts the threads
    for _ in range(args.turns):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            rates[name].append(work / (time.perf_counter() - start))
    print(f'[{args.size}, {args.size}] products, GFLOP/s: median, least to most of {args.turns}')
    for name, values in rates.items():
        print(f'{name:32s} {np.median(values):7.0f}   {min(values):.0f} to {max(values):.0f}')
    return {'rates': rates}
