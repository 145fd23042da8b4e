"""Writes and reads packs: a tuned task as one safetensors file.

A pack holds what a run added to its backbone or changed in it: the tuner, the head, prompts that
were frozen or pruned, and the backbone's leaves that train (bias, partial). The optimizer and the
backbone itself are not in it. The header says which backbone it needs, and all that predicting
takes (`header`). A checksum covers tensors and header.

    name of a tensor   tuner/..., head/..., backbone/... as in a running model
    metadata           jax_prompt_pack: the header, JSON; sha256: the checksum (`weights.sealed`)
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_prompt.core.checksum import hash_tree
from jax_prompt.core.tree import Tree, merge, unflatten
from jax_prompt.packs.header import Header, check_schema, from_json, to_json
from jax_prompt.runs.backbone import build_backbone
from jax_prompt.runs.restore import Restored, restore
from jax_prompt.weights.identity import Identity
from jax_prompt.weights.sealed import is_of_kind, read_sealed, write_sealed

KIND = 'pack'  # of the file (`weights.sealed`)
_GROUPS = ('tuner', 'head', 'backbone')
_DTYPES = ('float32', 'bfloat16')  # the latter of frozen prompts alone
_MOST_TENSORS = 100_000


class Pack(NamedTuple):
    """A tuned task.

    Attributes:
      header: what it is, and which backbone it needs.
      tree: what the run added or changed: {'tuner', 'head'} and maybe 'backbone', numpy.
      sha256: the checksum of both.
    """

    header: Header
    tree: Tree
    sha256: str


def pack_of(run: Restored) -> Pack:
    """Returns what of a run goes into a pack.

    Raises:
      ValueError: the run trained the whole backbone.
    """
    config = run.config
    if not run.frozen.get('backbone'):
        raise ValueError(
            f'method {config.method} trains the whole backbone, so nothing small is left to pack; '
            'write its weights instead: jax-prompt export --workdir DIR --out FILE'
        )
    identity = Identity.from_dict(run.result['weights'])
    content = build_backbone(config, identity).content
    added = {key: value for key, value in run.frozen.items() if key != 'backbone'}
    tree = jax.tree.map(np.array, merge(run.trainable, added))
    network = run.program.classifier.backbone.config
    config = replace(
        config,
        image_size=run.program.image_size,
        calibrate_data='',
        input=replace(config.input, image_cache=''),
        model=replace(config.model, pool=getattr(network, 'pool', '')),
    )
    header = Header(config, run.result, identity, content)
    values = to_json(header)
    return Pack(from_json(values), tree, hash_tree(tree, values))


def write_pack(run: Restored | str | Path, path: str | Path, weights: str | Path = '') -> Pack:
    """Writes a finished run as a pack.

    Args:
      run: the run, or its directory.
      path: the file; a pack of that name is replaced, at once and only by a complete one.
      weights: where the backbone's file lies now, if `run` is a directory and the file moved.

    Returns:
      What was written.

    Raises:
      FileNotFoundError: no run there, its weights file is gone, or the folder of `path` is.
      ValueError: the run trained the whole backbone, is not finished, or holds NaN; or another
        file than a pack lies at `path`.
    """
    path = Path(path).expanduser()
    if path.is_dir() or (path.exists() and not is_pack(path)):
        raise ValueError(f'{path} exists and is no pack; give another name for the pack')
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f'{path.absolute().parent} is not there; make that folder first')
    pack = pack_of(run if isinstance(run, Restored) else restore(run, weights))
    write_sealed(path, KIND, pack.tree, to_json(pack.header), finite=True, durable=True)
    return pack


def is_pack(path: str | Path) -> bool:
    """Whether a file is a pack, by its header; whether it is whole, `read_pack` tells."""
    return is_of_kind(Path(path).expanduser(), KIND)


def read_pack(path: str | Path) -> Pack:
    """Reads a pack.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no pack, is damaged, or of a schema that this version does not know.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f'{path} is a folder; a pack is a file (a run is packed by write_pack)')
    if not path.is_file():
        raise FileNotFoundError(f'no pack at {path}')
    sealed = read_sealed(path, KIND, 'give a pack, copied whole', _check)
    try:
        header = from_json(sealed.info)
    except ValueError as error:
        raise ValueError(f'{path} is not read: {error}') from error
    tree = unflatten({name: np.array(leaf) for name, leaf in sealed.leaves.items()})
    return Pack(header, tree, sealed.sha256)


def _check(tensors: dict[str, np.ndarray], info: Any) -> None:
    """Checks that tensors and header are those of a pack.

    Raises:
      ValueError: another schema; or too many tensors, of another name or type than a pack's, or not
        finite.
    """
    check_schema(info)
    if len(tensors) > _MOST_TENSORS:
        raise ValueError(f'it holds {len(tensors)} tensors; at most {_MOST_TENSORS} are read')
    for name, tensor in tensors.items():
        parts = name.split('/')
        if parts[0] not in _GROUPS or len(parts) < 2 or not all(parts):
            raise ValueError(f'a tensor is named {name[:80]!r}; allowed: GROUP/... of {_GROUPS}')
        if tensor.dtype.name not in _DTYPES:
            raise ValueError(f'{name[:80]} is {tensor.dtype}; allowed: {_DTYPES}')
        if not np.isfinite(tensor).all():
            raise ValueError(f'{name[:80]} holds NaN or infinity')
    if 'head' not in unflatten(tensors):
        raise ValueError('it holds no head')
