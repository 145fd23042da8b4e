"""Checkpoints of what trains, never of the frozen backbone.

A checkpoint is written by Orbax beside the former one and renamed at the end, so that a kill at any
moment leaves a whole one. The latest is always kept: it is what a resumed run continues from. One
that is removed is renamed first. So a folder with a step's name was whole once, and what a kill
leaves of a save or of a removal has another name; training removes it.

Which checkpoints there are, the names of their folders say. Orbax's `CheckpointManager` would open
a file of each (`_CHECKPOINT_METADATA`) to sort them by, and fail on one that is damaged.

With the arrays goes their hash (`checksum.py`), and reading compares. A checkpoint that was damaged
since is refused by name. A training puts it aside, as `damaged/STEP`, and goes on from the newest
that is whole: it comes to the same bits, only later.

What trains lies whole on every device, so process 0 of several writes it alone and gives it to the
others on restoring: a checkpoint knows nothing of devices, processes or meshes.
"""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_prompt.core.checksum import SUMS, damage, hash_tree, write_sums
from jax_prompt.train.processes import from_primary, is_primary, share

Saved = tuple[Any, dict[str, Any]]  # a checkpoint's tree and what is saved beside it
_UNFINISHED = '.orbax-checkpoint-tmp'  # after a step: what is being written or removed


class DamagedCheckpoint(ValueError):
    """A checkpoint does not hold what was written, or can't be read."""


class Checkpoints:
    """The checkpoints of one training, in one directory.

    Args:
      directory: where they lie; made if missing.
      keep: how many of the latest are kept.
    """

    def __init__(self, directory: Path, keep: int = 2):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._directory = Path(directory).resolve()
        self._keep = keep
        self._checkpointer: Any = None
        if is_primary():
            self._directory.mkdir(parents=True, exist_ok=True)
            alone = ocp.options.MultiprocessingOptions(active_processes={0})
            options = ocp.CompositeOptions(multiprocessing_options=alone)
            handler = ocp.CompositeCheckpointHandler(composite_options=options)
            self._checkpointer = ocp.Checkpointer(handler, multiprocessing_options=alone)
        self._latest = max(self.steps(), default=None)

    def save(self, step: int, tree: Any, info: dict[str, Any]) -> None:
        """Saves a tree of arrays and a JSON-able dict under a step number.

        A step that is already there is written anew: nothing has read it, so it may be damaged.
        """
        self._latest = step
        if self._checkpointer is None:
            return
        self._clear()
        path = self.path(step)
        if path.exists():
            self._remove(step)
        tree = jax.tree.map(np.asarray, tree)
        sealed = {'info': info, 'sha256': hash_tree(tree, info)}
        args = self._ocp.args.Composite(
            tree=self._ocp.args.StandardSave(tree), info=self._ocp.args.JsonSave(sealed)
        )
        self._checkpointer.save(path, args=args)
        write_sums(path)
        # Where training went on from an earlier step, later ones stay until they are written anew.
        for old in [at for at in self._found() if at <= step][: -self._keep]:
            self._remove(old)

    def _clear(self) -> None:
        """Removes what a kill left of a save or of a removal."""
        for left in self._directory.glob(f'*{_UNFINISHED}'):
            shutil.rmtree(left)

    def _remove(self, step: int) -> None:
        gone = self._directory / f'{step}{_UNFINISHED}'
        self.path(step).rename(gone)
        shutil.rmtree(gone)

    def _found(self) -> list[int]:
        folders = (path.name for path in self._directory.iterdir() if path.is_dir())
        return sorted(int(name) for name in folders if name.isascii() and name.isdecimal())

    def latest(self) -> int | None:
        """Returns the last step saved, or None."""
        return self._latest

    def steps(self) -> list[int]:
        """Returns the steps saved, ascending."""
        return from_primary(self._found)

    def restore(self, like: Any, step: int | None = None) -> Saved:
        """Restores (tree, info) of a step, by default the latest, as numpy arrays.

        Args:
          like: a tree of the same structure, shapes and dtypes.
          step: the step.

        Raises:
          FileNotFoundError: no checkpoint there.
          DamagedCheckpoint: it does not hold what was written; says why.
        """
        step = self.latest() if step is None else step
        if step is None or step not in self.steps():
            raise FileNotFoundError(
                f'no checkpoint in {self._directory}' + ('' if step is None else f' of step {step}')
            )
        held: dict[str, Any] = {}

        def read() -> dict[str, Any]:
            try:
                held['tree'], info = self._read(like, step)
            except DamagedCheckpoint as error:
                return {'damage': str(error)}
            return {'info': info}

        found = from_primary(read)  # in each process the same, so that all fail or none
        if 'damage' in found:
            raise DamagedCheckpoint(found['damage'])
        return share(held.get('tree'), like), found['info']

    def restore_or_put_aside(self, like: Any, step: int, *, quiet: bool = False) -> Saved:
        """Restores (tree, info) of a step; one that is damaged is put aside, which is said.

        Args:
          like: as in `restore`.
          step: the step.
          quiet: say nothing.

        Raises:
          DamagedCheckpoint: it is damaged, and has been put aside.
        """
        try:
            saved = self.restore(like, step)
            if self._checkpointer is not None:
                self._clear()
                if not (self.path(step) / SUMS).exists():
                    write_sums(self.path(step))  # a kill came between the checkpoint and these
            return saved
        except DamagedCheckpoint as error:
            aside, left = self.put_aside(step), self.latest()
            where = 'the start' if left is None else f'step {left} at the latest'
            if not quiet:
                text = f'warning: {error}. It lies in {aside} now; training goes on from {where}'
                print(text, flush=True)
            raise

    def _read(self, like: Any, step: int) -> Saved:
        path = self.path(step)
        if reason := damage(path):
            raise DamagedCheckpoint(f'the checkpoint {path} is damaged: {reason}')
        try:
            tree, sealed = self._restored(like, step)
        except Exception as error:  # Orbax and what it reads with raise many kinds
            reason = ' '.join(str(error).split())[:200]
            raise DamagedCheckpoint(
                f'the checkpoint {path} can not be read: {type(error).__name__}: {reason}'
            ) from error
        if not isinstance(sealed, dict) or ('info' in sealed) != ('sha256' in sealed):
            raise DamagedCheckpoint(f'the checkpoint {path} is damaged: its info has no hash')
        if 'sha256' not in sealed:  # of a version that wrote none
            return tree, sealed
        if hash_tree(tree, sealed['info']) != sealed['sha256']:
            raise DamagedCheckpoint(
                f'the checkpoint {path} is damaged: its values are not those that were written'
            )
        return tree, sealed['info']

    def _restored(self, like: Any, step: int) -> tuple[Any, Any]:
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), like)
        args = self._ocp.args.Composite(
            tree=self._ocp.args.StandardRestore(abstract), info=self._ocp.args.JsonRestore()
        )
        got = self._checkpointer.restore(self.path(step), args=args)
        # On the host: where the arrays lived when they were saved says nothing of this machine.
        return jax.tree.map(np.asarray, got['tree']), got['info']

    def path(self, step: int) -> Path:
        """Returns where a step's checkpoint lies."""
        return self._directory / str(step)

    def put_aside(self, step: int) -> Path:
        """Moves a damaged checkpoint out of the way and returns where it lies now."""

        def move() -> str:
            to = self._directory / 'damaged' / str(step)
            to.parent.mkdir(exist_ok=True)
            number = 1
            while to.exists():
                number += 1
                to = to.with_name(f'{step}_{number}')
            self.path(step).rename(to)
            return str(to)

        to = Path(from_primary(move))
        self._latest = max(self.steps(), default=None)
        return to

    def close(self) -> None:
        """Releases what Orbax holds."""
        if self._checkpointer is not None:
            self._checkpointer.close()
