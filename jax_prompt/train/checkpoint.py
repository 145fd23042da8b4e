"""Checkpoints of what trains, never of the frozen backbone.

A checkpoint is written by Orbax beside the former one and renamed at the end, so that a kill at any
moment leaves a whole one. The latest is always kept: it is what a resumed run continues from.

What trains lies whole on every device, so process 0 of several writes it alone and gives it to the
others on restoring: a checkpoint knows nothing of devices, processes or meshes.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_prompt.train.distributed import from_primary, is_primary, share


class Checkpoints:
    """The checkpoints of one training stage, in one directory.

    Args:
      directory: where they lie; made if missing.
      keep: how many of the latest are kept.
    """

    def __init__(self, directory: Path, keep: int = 2):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._directory = Path(directory).resolve()
        self._manager: Any = None
        if is_primary():
            self._directory.mkdir(parents=True, exist_ok=True)
            alone = ocp.options.MultiprocessingOptions(active_processes={0})
            options = ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                enable_async_checkpointing=False,
                create=False,
                multiprocessing_options=alone,
            )
            self._manager = ocp.CheckpointManager(self._directory, options=options)
        self._latest = from_primary(lambda: self._manager.latest_step())

    def save(self, step: int, tree: Any, info: dict[str, Any]) -> None:
        """Saves a tree of arrays and a JSON-able dict under a step number.

        A step that is already there is left as it is: a resumed run comes to the same bits.
        """
        self._latest = step
        if self._manager is None or step in self._manager.all_steps():
            return
        tree = jax.tree.map(np.asarray, tree)
        args = self._ocp.args.Composite(
            tree=self._ocp.args.StandardSave(tree), info=self._ocp.args.JsonSave(info)
        )
        self._manager.save(step, args=args, force=True)
        self._manager.wait_until_finished()

    def latest(self) -> int | None:
        """Returns the last step saved, or None."""
        return self._latest

    def steps(self) -> list[int]:
        """Returns the steps saved, ascending."""
        return from_primary(lambda: sorted(map(int, self._manager.all_steps())))

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Restores (tree, info) of a step, by default the latest, as numpy arrays.

        Args:
          like: a tree of the same structure, shapes and dtypes.
          step: the step.

        Raises:
          FileNotFoundError: no checkpoint there.
        """
        step = self.latest() if step is None else step
        if step is None:
            raise FileNotFoundError(f'no checkpoint in {self._directory}')
        tree, info = self._read(like, step) if self._manager else (None, None)
        return share(tree, like), from_primary(lambda: info)

    def _read(self, like: Any, step: int) -> tuple[Any, dict[str, Any]]:
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), like)
        args = self._ocp.args.Composite(
            tree=self._ocp.args.StandardRestore(abstract), info=self._ocp.args.JsonRestore()
        )
        got = self._manager.restore(step, args=args)
        # On the host: where the arrays lived when they were saved says nothing of this machine.
        return jax.tree.map(np.asarray, got['tree']), got['info']

    def close(self) -> None:
        """Releases Orbax's threads."""
        if self._manager is not None:
            self._manager.close()
