"""Snapshots: what trains, as it stood after some epochs, for those who look back at a run.

A checkpoint is there to go on from and only the latest is kept; a snapshot holds the weights that
would be evaluated, nothing of the optimizer, and stays. It lies beside the checkpoints of its job
as `snapshots/epoch_0003.safetensors`, one array a path of the trainable tree, with a checksum
(`weights.sealed`); epoch 0 is the initialisation, prototypes included.

A snapshot is moved into place whole, and before the checkpoint of its step is written: a killed
job that starts again from that checkpoint lacks none, and comes to the same bits for those that
it already wrote.
"""

import logging
import re
from pathlib import Path

import jax
import numpy as np

from jax_prompt.core.tree import Tree, flatten, misfits, unflatten
from jax_prompt.train.program import Program, TrainState
from jax_prompt.weights.sealed import is_whole, read_sealed, write_sealed

_LOG = logging.getLogger(__name__)
_KIND = 'snapshot'
_NAME = re.compile(r'^epoch_(\d+)\.safetensors$')


def take_snapshot(directory: Path, every: int, program: Program, state: TrainState) -> None:
    """Saves the state's weights where an epoch ends at which a snapshot is due.

    Args:
      directory: the stage's, where its checkpoints lie.
      every: epochs between snapshots, the initialisation first; the last epoch always has one. 0:
        none at all.
      program: says how many steps an epoch has.
      state: the state after a step.
    """
    epoch, inside = divmod(int(state.step), program.steps_per_epoch) if every else (0, 1)
    due = not inside and (epoch % every == 0 or epoch == program.epochs)
    path = directory / 'snapshots' / f'epoch_{epoch:04d}.safetensors'
    if not due or jax.process_index():
        return
    if is_whole(path, _KIND, 'it is written again'):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed(path, _KIND, jax.tree.map(np.asarray, program.weights(state)), {'epoch': epoch})


def find_snapshots(directory: str | Path) -> dict[int, Path]:
    """Returns the snapshots of a job by epoch, ascending; {} where there are none."""
    folder = Path(directory) / 'snapshots'
    found = folder.glob('epoch_*.safetensors')
    named = {int(match[1]): path for path in found if (match := _NAME.match(path.name))}
    if not named and any(folder.glob('epoch_*.npz')):
        _LOG.warning(
            '%s holds snapshots that an earlier version of jax_prompt wrote (.npz). This version '
            'does not read them; train the run again in another --workdir for new ones',
            folder,
        )
    return dict(sorted(named.items()))


def load_snapshot(path: str | Path, like: Tree) -> Tree:
    """Reads a snapshot.

    Args:
      path: the file.
      like: a trainable tree of the same run.

    Returns:
      The tree as it stood, numpy.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, or has other paths or shapes than those of `like`.
    """
    way_out = 'remove it; only a training from the start writes it again'
    flat = read_sealed(path, _KIND, way_out).leaves
    if differs := misfits(flat, flatten(like)):
        raise ValueError(
            f'{path} is no snapshot of this run: {"; ".join(differs[:5])}. Remove the folder of '
            'snapshots, or read it with the run that wrote it'
        )
    return unflatten(flat)
