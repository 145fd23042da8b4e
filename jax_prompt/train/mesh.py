"""Devices: one mesh of two axes, `data` x `fsdp`, for all processes together.

A batch is split over both axes. What trains is a few thousand numbers and lies whole on every
device, its optimizer state too. Frozen weights lie whole on every device (fsdp = 1), or each is
split over the devices of the `fsdp` axis (fully sharded data parallelism, Zhao et al.,
arXiv:2304.11277) and gathered block by block where the loop over blocks needs it
(`core/devices.py`). Steps are jitted with these shardings; the compiler places the collectives.

Every process runs the same program and holds the same host data, so `replicate` and `split_frozen`
take from the host copy what belongs on this process's devices and communicate nothing.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jax_prompt.core.devices import SHARDED
from jax_prompt.core.tree import Tree, flatten, segment_span, unflatten

AXES = ('data', SHARDED)
MIN_SPLIT = 4096  # a layer's leaf with fewer numbers costs more to gather than it saves


def data_mesh(num_devices: int = 0, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh [num_devices / fsdp, fsdp] of the first devices.

    Neighbours share the `fsdp` axis, so that its gathers stay within a machine where they can.

    Args:
      num_devices: how many of all processes' devices; 0: all.
      fsdp: devices that share each frozen weight.
      devices: the devices to take; None: those of all processes.

    Raises:
      ValueError: more devices than there are, fewer than all of several processes, or a number of
        them that fsdp does not divide.
    """
    devices = jax.devices() if devices is None else devices
    have = len(devices)
    wanted = num_devices or have
    if wanted > have:
        raise ValueError(f'engine.num_devices is {wanted}; there are {have}')
    if jax.process_count() > 1 and wanted < have:
        raise ValueError(
            f'engine.num_devices is {wanted}, but {jax.process_count()} processes have {have} '
            'devices and each must take part; set engine.num_devices=0'
        )
    if wanted % fsdp:
        raise ValueError(
            f'engine.fsdp is {fsdp}, which does not divide the {wanted} devices; allowed: '
            f'{[n for n in range(1, wanted + 1) if wanted % n == 0]}'
        )
    shape = (wanted // fsdp, fsdp)
    types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(shape, AXES, axis_types=types, devices=devices[:wanted])


def in_context(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """Returns the context in which a model is traced, so that it knows of the mesh."""
    if mesh is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def shard_batch(x: Any, mesh: Mesh | None) -> Any:
    """Splits the leading axis of x, or of a tree's leaves, over the mesh, inside a jitted step.

    An axis that the devices don't divide is filled up with zeros.
    """
    if mesh is None:
        return x

    def split(leaf: jax.Array) -> jax.Array:
        missing = -len(leaf) % mesh.size
        if missing:
            leaf = jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1))
        return jax.lax.with_sharding_constraint(leaf, batch_sharding(mesh))

    return jax.tree.map(split, x)


def unite(x: Any, mesh: Mesh | None) -> Any:
    """Makes a tree whole on every device, inside a jitted step, so that any process can read it."""
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec()))


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Puts a tree on every device of the mesh; on the default device without one."""
    sharding = NamedSharding(mesh, PartitionSpec()) if mesh else None
    return jax.tree.map(lambda leaf: _put(leaf, sharding), tree)


def split_frozen(frozen: Tree, mesh: Mesh | None) -> Tree:
    """Puts the frozen tree on the mesh: blocks split over `fsdp`, the rest on every device."""
    if mesh is None:
        return replicate(frozen, None)
    return jax.tree.map(_put, frozen, frozen_shardings(frozen, mesh))


def frozen_shardings(frozen: Tree, mesh: Mesh) -> Tree:
    """Returns how `split_frozen` puts each leaf, which may be a shape alone."""
    specs = {
        path: NamedSharding(mesh, frozen_spec(path, leaf.shape, mesh.shape[SHARDED]))
        for path, leaf in flatten(frozen).items()
    }
    return unflatten(specs)


def frozen_spec(path: str, shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """Returns how a frozen leaf is split: along the largest axis of its layers that fsdp divides.

    Leaves outside the stacked blocks, small ones and those without such an axis stay whole. The
    layer axis itself is never split: the loop over blocks takes one layer at a time.

    >>> tuple(frozen_spec('backbone/blocks_00_12/mlp/fc1/kernel', (12, 768, 3072), 4))
    (None, None, 'fsdp')
    >>> tuple(frozen_spec('backbone/blocks_00_12/mlp/fc1/bias', (12, 3072), 4))
    ()
    """
    stacked = any(segment_span(name) for name in path.split('/'))
    axes = [axis for axis in range(1, len(shape)) if shape[axis] % fsdp == 0]
    if fsdp == 1 or not stacked or not axes or np.prod(shape[1:]) < MIN_SPLIT:
        return PartitionSpec()
    largest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*(SHARDED if axis == largest else None for axis in range(len(shape))))


class SharedStream:
    """A stream of which each process reads its own rows of every batch.

    Args:
      stream: examples batch by batch (`data.loader.Stream`), the same in each process.
      mesh: devices that share a batch.
    """

    def __init__(self, stream: Any, mesh: Mesh):
        self.stream, self.mesh = stream, mesh

    def __len__(self) -> int:
        return len(self.stream)

    def batches(self, order: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
        """Yields (images [B, S, S, 3] over the mesh, labels [B]) for each row of [steps, B].

        A batch that the devices don't divide is read by each process whole.
        """
        size = order.shape[1]
        if size % self.mesh.size:
            yield from self.stream.batches(order)
            return
        sharding = batch_sharding(self.mesh)
        places = sharding.addressable_devices_indices_map((size,)).values()
        own = np.unique(np.concatenate([np.arange(size)[place] for place in places]))
        labels = np.asarray(self.stream.split.labels, np.int32)
        for row, (images, _) in zip(order, self.stream.batches(order[:, own]), strict=True):

            def of(index: Any, images: np.ndarray = images) -> np.ndarray:
                return images[np.searchsorted(own, np.arange(size)[index[0]])]

            shape = (size, *images.shape[1:])
            yield jax.make_array_from_callback(shape, sharding, of), labels[row]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns how a batch lies on the mesh: its leading axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def _put(leaf: Any, sharding: NamedSharding | None) -> Any:
    if jax.process_count() == 1 or sharding is None or getattr(leaf, 'sharding', 0) == sharding:
        return jax.device_put(leaf, sharding)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        bits = _put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
