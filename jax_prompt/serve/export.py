"""Exports a tuned task as a program of StableHLO: uint8 images in, probabilities out.

The program crops and normalises as the run's evaluation does, for any number of images. Weights are
part of it, or its arguments. In the latter case packs of one kind have the same program, whatever
their number of classes, and share one file of the backbone.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from jax_prompt.core.files import whole_file
from jax_prompt.core.tree import Tree, flatten, merge
from jax_prompt.runs.inputs import stored_view
from jax_prompt.runs.restore import Restored
from jax_prompt.serve.exported import ABOUT, BACKBONE, PROGRAM, SCHEMA, TASK, save_leaves

PLATFORMS = ('cpu', 'cuda', 'tpu')


def export(run: Restored, path: str | Path, arguments: bool = False) -> dict[str, Any]:
    """Writes the export of a run or a pack.

    Args:
      run: what was tuned.
      path: the folder, new or empty.
      arguments: whether weights are arguments of the program, and not part of it.

    Returns:
      What about.json says.

    Raises:
      ValueError: the folder holds something.
      ImportError: flatbuffers, which `jax.export` writes with, is missing.
    """
    folder = Path(path).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f'{folder} exists and is not empty; give a new folder')
    backbone, task = parts_of(run)
    view = stored_view(run.config, run.program.image_size)
    program = lower(run, view.size, arguments).serialize()
    kind = hashlib.sha256(program).hexdigest()
    about = {
        'schema': SCHEMA,
        'arguments': arguments,
        'kind': kind,
        'classes': run.classes,
        'size': view.size,
        'resize': view.method,
        'crop': view.crop,
        'crop_ratio': view.crop_ratio,
        'method': run.config.method,
        'backbone': run.result['backbone'],
        'weights': run.result['weights'],
        'platforms': list(PLATFORMS),
        'jax': jax.__version__,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRAM).write_bytes(program)
    if arguments:
        for name, tree in ((BACKBONE, backbone), (TASK, task)):
            save_leaves(folder / name, {k: np.asarray(x) for k, x in flatten(tree).items()})
    with whole_file(folder / ABOUT) as file:
        file.write(json.dumps(about, indent=1).encode())
    return about


def parts_of(run: Restored) -> tuple[Tree, Tree]:
    """Returns the frozen backbone, and what the task adds to it or changes in it."""
    backbone = {'backbone': run.frozen.get('backbone', {})}
    held = {key: value for key, value in run.frozen.items() if key != 'backbone'}
    return backbone, merge(run.trainable, held)


def lower(run: Restored, size: int, arguments: bool) -> jax.export.Exported:
    """Traces the program for a batch of any size.

    Args:
      run: what was tuned.
      size: S, side of the stored images.
      arguments: whether it takes (backbone, task, images), or images alone.
    """
    backbone, task = parts_of(run)
    (batch, classes) = jax.export.symbolic_shape('batch, classes')
    images = jax.ShapeDtypeStruct((batch, size, size, 3), np.uint8)

    def probabilities(backbone: Tree, task: Tree, images: jax.Array) -> jax.Array:
        return jax.nn.softmax(run.program.logits(task, backbone, images), axis=-1)

    if not arguments:
        fixed = jax.jit(lambda images: probabilities(backbone, task, images))
        return jax.export.export(fixed, platforms=PLATFORMS)(images)
    like = [jax.tree.map(_shape, tree) for tree in (backbone, task)]
    head = like[1]['head']
    width = head['kernel'].shape[0]
    like[1]['head'] = {
        'kernel': jax.ShapeDtypeStruct((width, classes), head['kernel'].dtype),
        'bias': jax.ShapeDtypeStruct((classes,), head['bias'].dtype),
    }
    return jax.export.export(jax.jit(probabilities), platforms=PLATFORMS)(*like, images)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype)
