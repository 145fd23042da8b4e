"""Loads an exported program and runs it. It needs jax (with flatbuffers) and nothing of the rest.

    tuned = load_exported('flowers')
    probabilities = tuned.predict(images)  # [B, S, S, 3] uint8

An export is a folder:

    about.json     classes, image size, how images are resized, and which backbone it is
    program.bin    the program, StableHLO as `jax.export` writes it, for cpu, cuda and tpu
    task.npz       what the task adds, where weights are arguments of the program
    backbone.npz   the backbone's weights, likewise

A program is code that runs: load those that you trust.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

SCHEMA = 1
ABOUT, PROGRAM, TASK, BACKBONE = 'about.json', 'program.bin', 'task.npz', 'backbone.npz'
_HALF = '#bfloat16'  # npz has no such type; the name says what the bytes are


class Exported:
    """An exported classifier.

    Attributes:
      about: the content of about.json.
    """

    def __init__(self, about: dict[str, Any], program: jax.export.Exported, leaves: tuple):
        self.about, self._program, self._leaves = about, program, leaves
        self._call = jax.jit(program.call)

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the probabilities."""
        return self.about['classes']

    def predict(self, images: Any) -> np.ndarray:
        """Computes class probabilities [B, K] float32.

        Args:
          images: [B, S, S, 3] uint8, S as `about['size']` says; resized as `about['resize']` and
            `about['crop']` say.

        Raises:
          ValueError: images of another shape or dtype.
        """
        size = self.about['size']
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != (size, size, 3) or images.dtype != np.uint8:
            raise ValueError(
                f'images are {images.dtype} of shape {list(images.shape)}; allowed: uint8 '
                f'[B, {size}, {size}, 3]'
            )
        return np.asarray(self._call(*self._leaves, images))


def load_exported(path: str | Path, task: str | Path | None = None) -> Exported:
    """Loads an export.

    Args:
      path: its folder.
      task: the folder of another export of the same kind, whose task is taken with the program and
        the backbone of the first; for programs whose weights are arguments.

    Raises:
      FileNotFoundError: there is no export.
      ValueError: another schema, or a task of another kind.
      ImportError: flatbuffers, which `jax.export` reads with, is missing.
    """
    folder = Path(path).expanduser()
    about = _about(folder)
    program = jax.export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    leaves: tuple = ()
    if task is not None:
        other = Path(task).expanduser()
        theirs = _about(other)
        if not about['arguments'] or theirs['kind'] != about['kind']:
            raise ValueError(
                f'the task of {other} does not fit the program of {folder}; allowed: exports of '
                'one kind, with weights as arguments'
            )
        about = theirs
    if about['arguments']:
        added = folder if task is None else Path(task).expanduser()
        leaves = tuple(jax.device_put(_tree(p)) for p in (folder / BACKBONE, added / TASK))
    return Exported(about, program, leaves)


def save_leaves(path: Path, flat: dict[str, np.ndarray]) -> None:
    """Writes leaves by path."""
    half = {name for name, leaf in flat.items() if leaf.dtype.name == 'bfloat16'}
    np.savez(
        path,
        **{  # type: ignore[arg-type]
            f'{name}{_HALF}' if name in half else name: leaf.view('u2') if name in half else leaf
            for name, leaf in flat.items()
        },
    )


def _tree(path: Path) -> dict[str, Any]:
    """Reads leaves as a nested tree."""
    tree: dict[str, Any] = {}
    with np.load(path) as file:
        for key in file.files:
            leaf, name = file[key], key.removesuffix(_HALF)
            *parents, last = name.split('/')
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = leaf.view(jax.numpy.bfloat16) if key != name else leaf
    return tree


def _about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT
    if not path.is_file():
        raise FileNotFoundError(f'no export at {folder}: it has no {ABOUT}')
    about = json.loads(path.read_text(encoding='utf-8'))
    if about.get('schema') != SCHEMA:
        raise ValueError(f'{path} has schema {about.get("schema")}; this version reads {SCHEMA}')
    return about
