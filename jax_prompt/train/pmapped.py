"""The training step under `pmap`, for programs that are built on it.

It takes what `step.make_step` takes and comes to the same state: each device computes the loss of
its rows divided by the whole batch's weight, and sums of losses and gradients over the devices do
the rest (`Program.step`, its argument `axis`). Augmentation is drawn by an image's place in the
whole batch, so it is the same too; dropout and stochastic depth are drawn device by device, from
other keys than the jitted step's.

`jit` with shardings is what the engine runs; it also splits frozen weights, which this can't.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.core.tree import Tree
from jax_prompt.train.optim import Hyper
from jax_prompt.train.step import Program, TrainState

AXIS = 'devices'


def pmap_step(
    program: Program,
    state: TrainState,
    frozen: Tree,
    x: Any,
    labels: jax.Array,
    weights: jax.Array,
    hyper: Hyper,
    key: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one step with the batch split over all local devices; arguments as in `Program.step`.

    Returns:
      The state after, and the metrics of the whole batch.

    Raises:
      ValueError: a program with a mesh, a batch that the devices don't divide, or whose images
        depend on each other.
    """
    devices, size = jax.local_device_count(), len(labels)
    if program.mesh is not None:
        raise ValueError('pmap takes a program without a mesh; set mesh=None, or take make_step')
    if program.classifier.mixes_examples:
        raise ValueError(
            'images of a batch depend on each other here (batch norms of the batch, or prompts in '
            'windows of other images), and pmap computes each part of it alone; take make_step, '
            'which shares the whole batch over a mesh'
        )
    if size % devices:
        raise ValueError(f'a batch of {size} is no multiple of the {devices} devices; change it')

    def split(leaf: Any) -> Any:
        return jnp.reshape(leaf, (devices, size // devices, *np.shape(leaf)[1:]))

    batch = jax.tree.map(split, (x, labels, weights))
    return _mapped(program)(state, frozen, *batch, hyper, key)


@cache
def _mapped(program: Program) -> Any:
    def step(state, frozen, x, labels, weights, hyper, key):
        return program.step(state, frozen, x, labels, weights, hyper, key, axis=AXIS)

    return jax.pmap(step, AXIS, in_axes=(None, None, 0, 0, 0, None, None), out_axes=None)
