"""Loads pretrained weights strictly, and writes them in the package's own form.

    tree, report = load_weights('ViT-B_16.npz', 'vit_b16_224.google_in21k')
    vit = ViT(report.config); params = adapt(tree, report.config)

`report.config` is the network that the file is for: the table's, with what the file's format or
names decide (LayerNorm's epsilon, pooling). `report.identity` is what results carry.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from jax_prompt.backbones.architectures import ARCHITECTURES, Config
from jax_prompt.backbones.table import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Colour,
    find_weights,
    lookup,
    tags,
)
from jax_prompt.core.files import whole_file
from jax_prompt.core.tree import Tree, flatten, unflatten, unstack_layers
from jax_prompt.weights.families import FAMILIES, Family
from jax_prompt.weights.identity import Identity, Report, colour
from jax_prompt.weights.readers import Contents, read
from jax_prompt.weights.rules import Table, apply, match_names
from jax_prompt.weights.writer import STORED, write_safetensors

_KEY = 'jax_prompt'  # of the identity in a converted file's metadata
_ANY_NAME = ('model.safetensors', 'pytorch_model.bin')  # every repository has a file of this name
_IMAGENET_FORMATS = ('mae', 'moco_v3', 'dino', 'dinov2')  # all trained with its mean and std


def load_weights(
    path: str | Path | None,
    name: str,
    *,
    format: str = 'auto',
    mean: Colour | None = None,
    std: Colour | None = None,
) -> tuple[Tree, Report]:
    """Loads a checkpoint as the parameters of a backbone of the table.

    Args:
      path: the file; None for weights that ship with the package.
      name: 'arch.tag' or 'arch', see `backbones.table`.
      format: one of `weights.families.FORMATS`, or 'auto' to tell it from the names.
      mean: overrides the normalisation's mean.
      std: overrides the normalisation's standard deviation.

    Returns:
      The tree in per-layer form (`block_00/...`), float32 numpy, its position embedding at the
      file's own grid (`backbones.vit.adapt` resizes it), and the report. Leaves may be read-only
      views of the file, which is read as they are: it must not change while they are used.

    Raises:
      FileNotFoundError: the file is not there; says where it is published.
      ValueError: the file is damaged, of another architecture, or any name is unused, missing or
        misshapen.
    """
    path = find_weights(name, path)
    family = FAMILIES[lookup(name).config.family]
    if format != 'auto' and format not in family.formats:
        raise ValueError(f"format '{format}' is unknown; allowed: {['auto', *family.formats]}")
    contents = read(path, _most_bytes(family.leaf_shapes(lookup(name).config)))
    origin = _find_origin(contents, name, format, path, family)
    tensors, config = contents.tensors, origin.config
    matched = match_names(origin.table, tensors, str(path))
    facts, wanted = family.facts_of(matched, tensors), family.facts_asked(config)
    if facts is not None and facts != wanted:
        raise ValueError(
            f'{path} is a {family.name} of {facts}{_named(facts, family)}; asked: {name} '
            f'({wanted}). Ask for the backbone that the file is for.'
        )
    applied = apply(matched, tensors, family.leaf_shapes(config), str(path))
    grid = family.settle_positions(applied.flat, config, str(path))
    identity, notes = origin.identity, origin.notes
    if mean is not None or std is not None:
        identity = replace(
            identity,
            mean=identity.mean if mean is None else colour(mean, 'mean'),
            std=identity.std if std is None else colour(std, 'std'),
        )
        notes = (*notes, 'mean or std were given by hand')
    report = Report(
        identity=identity,
        config=config,
        form=contents.form,
        container=contents.container,
        grid=grid,
        used=applied.used,
        skipped=applied.skipped,
        left=contents.left,
        notes=notes,
    )
    return unflatten(applied.flat), report


def save_converted(
    path: str | Path, tree: Mapping[str, Any], identity: Identity, dtype: str = 'float32'
) -> None:
    """Writes a tree and its identity as safetensors; `load_weights` reads it.

    Args:
      path: the file; an older one is replaced, at once and only when the new one is complete.
      tree: parameters in per-layer form or stacked.
      identity: which weights these are.
      dtype: stored dtype; 'float16' and 'bfloat16' halve the file and round the weights.

    Raises:
      ValueError: the dtype is unknown, or a weight does not fit in float16.
    """
    if dtype not in STORED:
        raise ValueError(f"dtype '{dtype}' is unknown; allowed: {list(STORED)}")
    text = json.dumps(replace(identity, converted_sha256=None).to_dict(), sort_keys=True)
    with whole_file(path) as file:
        write_safetensors(file, flatten(unstack_layers(tree)), dtype, {_KEY: text})


@dataclass(frozen=True)
class _Origin:
    """What a file is: its format, its network, its identity, and what was assumed for that."""

    table: Table
    config: Config
    identity: Identity
    notes: tuple[str, ...] = ()


def _find_origin(contents: Contents, name: str, format: str, path: Path, family: Family) -> _Origin:
    digest = _sha256(path)
    if _KEY in contents.metadata:
        return _converted_origin(contents, name, path, digest, family)
    asked = lookup(name)
    tagged = name == asked.name
    entries = [asked] if tagged else [lookup(full) for full in tags(asked.arch)]
    published = [e for e in entries if e.filename == path.name and path.name not in _ANY_NAME]
    entry = (published or [asked])[0]
    if format == 'auto':
        names = contents.tensors
        table = family.detect(names, contents.container, entry.format, str(path))
    else:
        table = family.formats[format]
    if table.prefix(contents.tensors) is None:
        raise ValueError(
            f"{path} lacks '{table.anchor}', so it is not of format {table.name}; leave the format "
            f'to be found, or give one of {list(family.formats)}'
        )
    if published and entry.sha256 not in (None, digest):
        raise ValueError(
            f'{path} has sha256 {digest}; the published {entry.filename} has {entry.sha256}. '
            f'Download it again from {entry.url}, or rename your own file.'
        )
    listed, notes = tagged or bool(published), []
    mean, std = entry.mean, entry.std
    if not listed:
        # The file is the user's own: what its format stands for is the best guess.
        entry = next((e for e in entries if e.format == table.name), entry)
        mean, std = entry.mean, entry.std
        autoencoder = any(name.startswith('decoder.') for name in contents.tensors)  # ViTMAE
        if (entry.format != table.name and table.name in _IMAGENET_FORMATS) or autoencoder:
            mean, std = IMAGENET_MEAN, IMAGENET_STD
        notes.append(
            f'{path.name} is in no table: read as a {table.name} file, run like {entry.name}, '
            f'normalised by mean {mean}; if that is wrong, ask for arch.tag, or give mean and std'
        )
    config = replace(entry.config, **family.decided(table, contents.tensors))
    identity = Identity(
        name=entry.name if listed else name,
        source=path.name,
        sha256=digest,
        format=table.name,
        mean=mean,
        std=std,
        overrides=_differences(config, lookup(entry.name if listed else name).config),
    )
    return _Origin(table, config, identity, tuple(notes))


def _converted_origin(
    contents: Contents, name: str, path: Path, digest: str, family: Family
) -> _Origin:
    """The origin of a file that `save_converted` wrote: what it says itself."""
    try:
        identity = Identity.from_dict(json.loads(contents.metadata[_KEY]))
        config = identity.config()
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f'{path}: its identity is damaged ({error}); convert it again') from error
    asked = lookup(name)
    if lookup(identity.name).arch != asked.arch or (
        name == asked.name and '.' in identity.name and identity.name != name
    ):
        raise ValueError(f'{path} holds {identity.name}; asked: {name}. Ask for {identity.name}.')
    table = family.formats['jax_prompt']
    return _Origin(table, config, replace(identity, converted_sha256=digest))


def _differences(config: Config, listed: Config) -> tuple[tuple[str, Any], ...]:
    names = [field.name for field in fields(config)]
    pairs = [(name, getattr(config, name), getattr(listed, name)) for name in sorted(names)]
    return tuple((name, value) for name, value, other in pairs if value != other)


def _named(facts: Any, family: Family) -> str:
    alike = {a: c for a, c in ARCHITECTURES.items() if FAMILIES[c.family] is family}
    names = [arch for arch, config in alike.items() if family.facts_asked(config) == facts]
    return f' ({" or ".join(names)})' if names else ''


def _most_bytes(shapes: Mapping[str, Any]) -> int:
    """Returns what the compressed arrays of a file for a network may unpack to.

    Four times its weights in float32 (an optimizer keeps two more of each), and 256 MB for heads
    and for what has any size.
    """
    weights = sum(math.prod(n or 1 for n in shape) for shape in shapes.values())
    return 4 * 4 * weights + 2**28


def _sha256(path: Path) -> str:
    with path.open('rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()
