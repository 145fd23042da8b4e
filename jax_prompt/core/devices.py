"""Facts about devices: the number of cores, and where a layer's weights must be whole."""

import os
from typing import Any

import jax
from jax.sharding import PartitionSpec

SHARDED = 'fsdp'  # the mesh axis over which frozen weights are split


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
