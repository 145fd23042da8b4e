"""Facts about devices: cores, memory, and where a layer's weights must be whole."""

import os
import re
from pathlib import Path
from typing import Any

import jax
from jax.sharding import PartitionSpec

SHARDED = 'fsdp'  # the mesh axis over which frozen weights are split
# Memory of a described device by its kind, in GiB, as the pages of Cloud TPU say. Kinds are JAX's:
# 'TPU v5 lite' is v5e, 'TPU v5' is v5p. Descriptions of v2 to v4 list a chip as two devices. A
# device that is there says its memory itself.
_MEMORY_GIB = {
    'TPU v2': 8,
    'TPU v3': 16,
    'TPU v4': 16,
    'TPU v5 lite': 16,
    'TPU v5': 95,
    'TPU v6 lite': 32,
}


def num_cores() -> int:
    """Returns the cores that this process may run on.

    Where the environment variable NPROC is set it is that number, for XLA takes it too: it makes so
    many threads, which decide the order of its sums, and so the last bits of a result.
    """
    asked = os.environ.get('NPROC', '')
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def product_dtype() -> tuple[str, str]:
    """Chooses the dtype of products for the first device of this process.

    bfloat16 on TPUs, on GPUs from compute capability 8.0, and on CPUs that list AVX512-BF16. Other
    CPUs compute bfloat16 in float32 and lose time over it.

    Returns:
      'float32' or 'bfloat16', and the reason in words.
    """
    device = jax.local_devices()[0]
    if device.platform == 'cpu':
        flags = Path('/proc/cpuinfo')
        text = flags.read_text(errors='replace') if flags.exists() else ''
        if re.search(r'\bavx512_bf16\b', text):
            return 'bfloat16', 'the CPU has AVX512-BF16'
        return 'float32', 'the CPU does not list AVX512-BF16'
    capability = getattr(device, 'compute_capability', None)
    if capability is not None and float(capability) < 8.0:
        return 'float32', f'{device.device_kind} has compute capability {capability}, below 8.0'
    return 'bfloat16', f'the device is a {device.device_kind}'


def device_bytes(device: Any) -> int:
    """Returns the memory of a device in bytes: an accelerator's own, a CPU device's share of all.

    0 where it is not known.
    """
    if device.platform == 'cpu':
        pages = os.sysconf('SC_PHYS_PAGES') if hasattr(os, 'sysconf') else 0
        return pages * os.sysconf('SC_PAGE_SIZE') // jax.local_device_count() if pages else 0
    try:
        stats = device.memory_stats() or {}
    except jax.errors.JaxRuntimeError:  # a description alone
        stats = {}
    return int(stats.get('bytes_limit', _MEMORY_GIB.get(device.device_kind, 0) * 2**30))


def whole(tree: Any) -> Any:
    """Gathers one layer's weights on every device, where the mesh in context splits them.

    A backbone calls it on the weights of a block inside its loop over blocks. Without it the
    compiler is free to split the block's products instead, and to pass activations around, which
    are larger. Without a mesh in context the tree comes back as it is.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape.get(SHARDED, 1) == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())
