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


def jax_product(size: int, dtype: str, precision: str = 'float32') -> Callable[[], Any]:
    """Returns a call that multiplies a [size, size] matrix of JAX by itself, with float32 result.

    Args:
      size: side of the matrix.
      dtype: 'float32' or 'bfloat16'.
      precision: of a float32 product on a device that has several.
    """
    import jax
    import jax.numpy as jnp

    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply = jax.jit(
        lambda a: jnp.matmul(a, a, precision=precision, preferred_element_type=jnp.float32)
    )
    return lambda: multiply(x).block_until_ready()


def products(size: int) -> dict[str, Callable[[], Any]]:
    """Returns the products of [size, size] matrices by name; those of torch where it is there."""
    import jax
    import jax.numpy as jnp

    x = np.random.default_rng(0).standard_normal((size, size), np.float32)
    half, plain = jnp.asarray(x, jnp.bfloat16), jax.jit(jnp.matmul)
    out: dict[str, Callable[[], Any]] = {
        'numpy float32': lambda: x @ x,
        'jax float32': jax_product(size, 'float32'),
        'jax bfloat16, bfloat16 result': lambda: plain(half, half).block_until_ready(),
        'jax bfloat16, float32 result': jax_product(size, 'bfloat16'),
    }
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


def rate(dtype: str, precision: str, turns: int = 5) -> dict[str, float]:
    """Measures the products of JAX whose share a step can reach, on the device of this process.

    Args:
      dtype: 'float32', or 'bfloat16' with a float32 result.
      precision: of the step's float32 products.
      turns: products; the fastest counts.

    Returns:
      {'size': side of the matrices, 'gflops': 10^9 operations a second}.
    """
    import jax

    size = 2048 if jax.default_backend() == 'cpu' else 8192
    call = jax_product(size, dtype, precision)
    call()  # compiles
    return {'size': size, 'gflops': max(_gflops(call, size) for _ in range(turns))}


def _gflops(call: Callable[[], Any], size: int) -> float:
    """Times one product of [size, size] matrices."""
    start = time.perf_counter()
    call()
    return 2 * size**3 / 1e9 / (time.perf_counter() - start)


def bench_machine(args: argparse.Namespace) -> dict[str, Any]:
    """Measures the rates in turns.

    Args:
      args: turns and size.

    Returns:
      {'rates': {name: [GFLOP/s of each turn]}}.
    """
    calls = products(args.size)
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # compiles, or starts the threads
    for _ in range(args.turns):
        for name, call in calls.items():
            rates[name].append(_gflops(call, args.size))
    print(f'[{args.size}, {args.size}] products, GFLOP/s: median, least to most of {args.turns}')
    for name, values in rates.items():
        print(f'{name:32s} {np.median(values):7.0f}   {min(values):.0f} to {max(values):.0f}')
    return {'rates': rates}
