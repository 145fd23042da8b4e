"""Forms of attention as the compiler of TPUs sees them, forward and backward of one layer.

    python launch/speed/bench_pods_attention.py [--arch vit_b16_224] [--forms attend splash]

It needs `pip install 'jax-prompt[tpu]'` and no TPU; nothing runs. A layer is the projection to
queries, keys and values, attention, and the projection back, with frozen bfloat16 weights, 32
images and 50 prompts that end in the layer, on one chip of v5e. The figures are the compiler's own:
scratch memory, bytes that the operations read and write, and estimated cycles. A kernel written by
hand (splash attention) tells the compiler its own estimate of bytes, or nothing.
"""

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from bench_arch import VITS
from bench_pods import IMAGES, cycles
from jax.sharding import SingleDeviceSharding

from jax_prompt.nn.attention import attend, join_heads, split_heads
from jax_prompt.nn.products import product
from jax_prompt.runs.topology import tpu_slice

PROMPTS = 50
LANES = 128

Form = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def library(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """`jax.nn.dot_product_attention`, which takes [B, T, H, d]."""
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    return jnp.swapaxes(jax.nn.dot_product_attention(q, k, v), 1, 2)


def splash(q: jax.Array, k: jax.Array, v: jax.Array, interpret: bool = False) -> jax.Array:
    """Splash attention of JAX, image by image; tokens are filled up to multiples of 128."""
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    (heads, queries, depth), keys = q.shape[1:], k.shape[2]
    rows, columns = (-(-n // LANES) * LANES for n in (queries, keys))
    blocks = library.BlockSizes(
        block_q=rows,
        block_kv=columns,
        block_kv_compute=columns,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        block_kv_dkv_compute=columns,
        use_fused_bwd_kernel=True,
    )
    mask = library.MultiHeadMask([library.FullMask((rows, columns)) for _ in range(heads)])
    kernel = library.make_splash_mha(
        mask, block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret
    )
    # A key of another segment than the queries is left out.
    filling = (jnp.arange(columns) >= keys).astype(jnp.int32)
    segments = library.SegmentIds(jnp.zeros(rows, jnp.int32), filling)

    def filled(x: jax.Array, count: int) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, count - x.shape[2]), (0, 0)))

    q = filled((q / math.sqrt(depth)).astype(q.dtype), rows)
    y = jax.vmap(partial(kernel, segment_ids=segments))(q, filled(k, columns), filled(v, columns))
    return y[:, :, :queries]


FORMS: dict[str, Form] = {
    'attend': attend,
    'dot_product_attention': library,
    'splash': splash,
}


def layer(form: Form, heads: int, x: jax.Array, qkv: jax.Array, proj: jax.Array) -> jax.Array:
    """Maps tokens [B, T, D] to those that go on, [B, T - P, D]."""
    q, k, v = split_heads(product(x, qkv), heads)
    rest = jnp.concatenate([q[:, :, :1], q[:, :, 1 + PROMPTS :]], axis=2)
    return product(join_heads(form(rest, k, v)), proj)


def compiled(form: Form, arch: str, device: Any) -> Any:
    """Compiles both passes of a layer; a barrier parts them, as other layers do in a network."""
    config = VITS[arch]
    length, width = config.num_lead + PROMPTS + config.grid**2, config.width

    def passes(x: jax.Array, qkv: jax.Array, proj: jax.Array, g: jax.Array) -> Any:
        output, back = jax.vjp(lambda x: layer(form, config.num_heads, x, qkv, proj), x)
        output, g, back = jax.lax.optimization_barrier((output, g, back))
        return output, back(g)

    where = SingleDeviceSharding(device)
    shapes = (
        (IMAGES, length, width),
        (width, 3 * width),
        (width, width),
        (IMAGES, length - PROMPTS, width),
    )
    args = (jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=where) for shape in shapes)
    return jax.jit(passes).lower(*args).compile()


def main() -> None:
    """Prints a line for each form."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--arch', choices=tuple(VITS), default='vit_b16_224')
    parser.add_argument('--forms', nargs='+', choices=tuple(FORMS), default=list(FORMS))
    args = parser.parse_args()
    device = tpu_slice('v5e:2x2')[0]
    for name in args.forms:
        start = time.process_time()
        program = compiled(FORMS[name], args.arch, device)
        costs: Any = program.cost_analysis()
        scratch, moved = program.memory_analysis().temp_size_in_bytes, costs['bytes accessed']
        print(
            f'{args.arch} {name:24s}{scratch / 1e6:9.1f} MB scratch{moved / 1e6:9.1f} MB moved'
            f'{cycles(program.as_text()) / 1e6:8.2f} M cycles'
            f'   ({time.process_time() - start:.0f} s)',
            flush=True,
        )


if __name__ == '__main__':
    main()
