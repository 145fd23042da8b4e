"""The operations of `speed.py ops`: attention and GELU, forward and backward, in several forms.

`nn/attention.py` and `nn/layers.py` hold the forms that were chosen by these figures. Each form is
checked against the first of its group, value and gradients, before it is timed.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_arch import VITS

from jax_prompt.nn.attention import attend
from jax_prompt.nn.layers import gelu

Form = Callable[..., jax.Array]


def heads_first(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention on [B, H, T, d], gradients by automatic differentiation."""
    scores = jnp.einsum('bhtd,bhsd->bhts', q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores / math.sqrt(q.shape[-1]), axis=-1)  # [B, H, T, T]
    return jnp.einsum('bhts,bhsd->bhtd', weights.astype(v.dtype), v)


def tokens_first(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """The same with products on [B, T, H, d], as Flax's own attention has them."""
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))  # each [B, T, H, d]
    scores = jnp.einsum('bthd,bshd->bhts', q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores / math.sqrt(q.shape[-1]), axis=-1)  # [B, H, T, T]
    return jnp.swapaxes(jnp.einsum('bhts,bshd->bthd', weights.astype(v.dtype), v), 1, 2)


def library(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """`jax.nn.dot_product_attention`, which takes [B, T, H, d]."""
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    return jnp.swapaxes(jax.nn.dot_product_attention(q, k, v), 1, 2)


def rematerialised(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """`heads_first` under `jax.checkpoint`: the backward pass computes the forward pass again."""
    return jax.checkpoint(heads_first)(q, k, v)


def gelu_library(x: jax.Array) -> jax.Array:
    """`jax.nn.gelu` in its exact form."""
    return jax.nn.gelu(x, approximate=False)


def gelu_erf(x: jax.Array) -> jax.Array:
    """The exact GELU by erf, gradients by automatic differentiation."""
    return x * (0.5 * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))).astype(x.dtype)


ATTENTION: dict[str, Form] = {
    'heads_first': heads_first,
    'tokens_first': tokens_first,
    'dot_product_attention': library,
    'jax.checkpoint': rematerialised,
    'nn.attention.attend': attend,
}
GELU: dict[str, Form] = {'erf': gelu_erf, 'jax.nn.gelu': gelu_library, 'nn.layers.gelu': gelu}


def both_passes(form: Form, count: int) -> Any:
    """Returns the jitted function (inputs, g) -> (output, gradients of every input).

    An optimization barrier parts the passes, so that what the backward pass needs is really kept
    or really recomputed, as it is between two layers of a network.
    """

    def passes(*arrays: jax.Array) -> Any:
        output, back = jax.vjp(form, *arrays[:count])
        output, g = jax.lax.optimization_barrier((output, arrays[count]))
        return output, back(g)

    return jax.jit(passes)


def measure(
    forms: dict[str, Form], shape: tuple[int, ...], count: int, args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Times forms in turns.

    Args:
      forms: name -> function of `count` arrays of that shape, giving one of that shape.
      shape: of each array.
      count: number of inputs.
      args: turns, steps (calls a turn) and dtype.

    Returns:
      name -> median seconds of a call and scratch memory in MB.

    Raises:
      ValueError: a form's value or gradients are not those of the first form.
    """
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.standard_normal(shape), args.dtype) for _ in range(count + 1)]
    compiled = {n: both_passes(f, count).lower(*arrays).compile() for n, f in forms.items()}
    first = next(iter(compiled))
    tolerance = 1e-4 if args.dtype == 'float32' else 5e-2
    reference = jax.tree.leaves(compiled[first](*arrays))
    for name, function in compiled.items():
        for ours, theirs in zip(jax.tree.leaves(function(*arrays)), reference, strict=True):
            apart = float(jnp.max(jnp.abs(ours.astype(jnp.float32) - theirs.astype(jnp.float32))))
            if apart > tolerance * max(1.0, float(jnp.max(jnp.abs(theirs)))):
                raise ValueError(f'{name} and {first} differ by {apart}, allowed: {tolerance}')
    times: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(args.turns):
        for name, function in compiled.items():
            start = time.perf_counter()
            for _ in range(args.steps):
                result = function(*arrays)
            jax.block_until_ready(result)
            times[name].append((time.perf_counter() - start) / args.steps)
    return {
        name: {
            'seconds': statistics.median(times[name]),
            'scratch_mb': function.memory_analysis().temp_size_in_bytes / 1e6,
        }
        for name, function in compiled.items()
    }


def bench_ops(args: argparse.Namespace) -> dict[str, Any]:
    """Measures both groups at the shapes of one block, and prints them."""
    config = VITS[args.arch]
    length = config.num_lead + args.prompts + config.grid**2
    heads, depth = config.num_heads, config.width // config.num_heads
    groups = {
        'attention': (ATTENTION, (args.batch, heads, length, depth), 3),
        'gelu': (GELU, (args.batch, length, config.mlp_dim), 1),
    }
    device = jax.devices()[0]
    result: dict[str, Any] = {
        'device': device.device_kind,
        'versions': {'jax': jax.__version__},
        'ops': {},
    }
    for group, (forms, shape, count) in groups.items():
        rows = measure(forms, shape, count, args)
        result['ops'][group] = {'shape': shape, 'forms': rows}
        print(f'{group}, forward and backward, {list(shape)} {args.dtype} on {device.device_kind}')
        for name, row in rows.items():
            print(
                f'  {name:24s} {1e3 * row["seconds"]:9.2f} ms {row["scratch_mb"]:9.1f} MB scratch'
            )
    return result
