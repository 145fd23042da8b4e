"""Facts about devices: the number of cores, and where a layer's weights must be whole."""

import os
from typing import Any

import jax
from jax.sharding import PartitionSpec

SHARDED = 'fsdp'  # the mesh axis over which frozen weights are split


def num_cores() -> int:
    """Returns the cores that this process may run on."""
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
