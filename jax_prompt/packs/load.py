"""From a pack and the backbone that it names back to a classifier.

The backbone's file is found by its SHA-256, wherever it lies: the file that is given, the weights
that ship with the package, the file that the run was trained on, the folder of fetched weights.
Another file is never taken in its place.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.backbones.table import TABLE, Entry, find_weights
from jax_prompt.core.checksum import hash_file
from jax_prompt.core.tree import Tree, flatten, misfits, split, unflatten
from jax_prompt.data.kept import Kept
from jax_prompt.methods import get_method
from jax_prompt.packs.file import Pack, read_pack
from jax_prompt.runs.backbone import LoadedBackbone, build_backbone, check_content
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.program import build_program, init_params, trains
from jax_prompt.runs.restore import Restored, restore
from jax_prompt.runs.result import measured_hash
from jax_prompt.train.program import Program
from jax_prompt.weights.cache import cached_file
from jax_prompt.weights.fetch import AUTO, weights_file
from jax_prompt.weights.identity import Identity


def open_tuned(path: str | Path, weights: str | Path | None = None) -> Restored:
    """Opens what was tuned: a run's directory or a pack.

    Args:
      path: a directory or a file.
      weights: the backbone's file, if it moved.

    Raises:
      FileNotFoundError: nothing there, or the backbone's file is not found.
      ValueError: as `restore` and `load_pack`.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f'{path} is not there; give a finished run, or a pack')
    return load_pack(path, weights) if path.is_file() else restore(path, weights or '')


def load_pack(pack: Pack | str | Path, weights: str | Path | None = None) -> Restored:
    """Loads a pack, on one device.

    Args:
      pack: the pack or its file.
      weights: the backbone's file; None: it is looked for.

    Returns:
      What `restore` gives for the run itself. Its predictions are the run's to the last bit.

    Raises:
      FileNotFoundError: the backbone's file is not found; says which one is needed.
      ValueError: the pack is not read, contradicts itself, or the file holds other weights.
    """
    name = 'the pack' if isinstance(pack, Pack) else str(Path(pack).expanduser())
    if not isinstance(pack, Pack):
        pack = read_pack(pack)
    header = pack.header
    config = replace(
        header.config,
        engine=replace(header.config.engine, num_devices=1, fsdp=1),
        weights=str(find_backbone(header.backbone, header.config.weights, weights, name)),
    )
    try:
        backbone = build_backbone(config, header.backbone)
    except ValueError as error:
        raise ValueError(f'{name} needs {_needed(header.backbone)}. {error}') from error
    needs = f'{name} needs them as its run had them: {_needed(header.backbone)}'
    check_content(backbone, header.content, config.weights, needs)
    program = check_pack(pack, config, backbone, name)
    flat = flatten(pack.tree)
    trainable, frozen = init_params(config, backbone, program.classifier)
    held = {key: value for key, value in frozen.items() if key != 'backbone'}
    _check_shapes(flat, flatten(trainable) | flatten(held), name)
    trainable = _filled(trainable, flat, np.asarray)
    frozen = frozen | _filled(held, flat, jnp.asarray)
    data = header.result
    kept = Kept(data['data_fingerprint'], tuple(data['classes']), dict(data['num_examples']), {})
    return Restored(config, data, program, trainable, frozen, kept)


def check_pack(pack: Pack, config: RunConfig, backbone: LoadedBackbone, name: str) -> Program:
    """Builds the program of a pack, and checks that what it holds is what the program takes.

    Args:
      pack: the pack.
      config: its configuration, on this machine's devices.
      backbone: its backbone; the weights are not needed.
      name: of the pack, for errors.

    Raises:
      ValueError: the pack contradicts itself.
    """
    result, flat = pack.header.result, flatten(pack.tree)
    if list(backbone.mean) != result['mean'] or list(backbone.std) != result['std']:
        raise ValueError(f'{name} contradicts itself: two normalisations')
    program = build_program(config, backbone, len(result['classes']), config.batch_size)
    classifier = program.classifier
    added = jax.eval_shape(classifier.init_added, jax.random.key(0))
    theirs = {path: leaf for path, leaf in flat.items() if not path.startswith('backbone/')}
    _check_shapes(theirs, flatten(added), name)  # before a large one is made
    trained, held = split(pack.tree, trains(get_method(config.method), config, classifier))
    if measured_hash(config, trained, held) != result['trained_sha256']:
        raise ValueError(f'{name} holds other weights than those that its run measured')
    return program


def find_backbone(
    identity: Identity, recorded: str, given: str | Path | None = None, name: str = 'the pack'
) -> Path:
    """Returns the file with a pack's backbone.

    Args:
      identity: which weights.
      recorded: the file that the run was trained on, '' for what shipped with the package.
      given: the user's file; 'auto': the published one, from the cache or fetched; None or '': it
        is looked for, and nothing is fetched.
      name: what needs it, for errors.

    Raises:
      FileNotFoundError: it is not found; says which file is needed and where it is published.
      ValueError: the file that is given is another one.
    """
    auto = str(given) == AUTO
    if auto and identity.label not in TABLE:
        raise ValueError(f'{name} needs {_needed(identity)}, which is not published; give its file')
    if given:
        path = weights_file(identity.label, AUTO) if auto else Path(given).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f'no weights at {given}; {name} needs {_needed(identity)}')
        return path
    wanted = {identity.sha256, identity.converted_sha256}
    looked = [path for path in _places(identity, recorded) if path.is_file()]
    for path in looked:
        if hash_file(path) in wanted:
            return path
    others = f' (not {", ".join(map(str, looked))}: other weights)' if looked else ''
    raise FileNotFoundError(
        f'{name} needs {_needed(identity)}. It was not found{others}; give it: weights=FILE, or '
        f'--weights FILE on the command line'
    )


def _places(identity: Identity, recorded: str) -> Iterator[Path]:
    """Yields where a backbone's file may lie."""
    entry = TABLE.get(identity.label)
    if entry is not None:
        yield find_weights(entry.name) if entry.packaged else cached_file(entry)
    if recorded not in ('', AUTO):
        yield Path(recorded).expanduser()


def _needed(identity: Identity) -> str:
    """Says which file is needed."""
    entry: Entry | None = TABLE.get(identity.label)
    published = f", published at {entry.url} ('auto' fetches it)" if entry and entry.url else ''
    sums = identity.sha256
    if identity.converted_sha256:
        sums += f' (or its converted form, {identity.converted_sha256})'
    return f'the backbone {identity.label}: {identity.source} with sha256 {sums}{published}'


def _check_shapes(held: Mapping[str, Any], wanted: Mapping[str, Any], name: str) -> None:
    if wrong := misfits(held, wanted):
        raise ValueError(f'{name} contradicts itself: {"; ".join(wrong[:5])}')


def _filled(like: Tree, flat: Mapping[str, np.ndarray], put: Any) -> Tree:
    """Returns a tree with the values of a pack."""
    return unflatten({path: put(flat[path]) for path in flatten(like)})
