"""Loads pretrained weights strictly, and writes them in the package's own form.

    tree, report = load_weights('ViT-B_16.npz', 'vit_b16_224.google_in21k')
    vit = ViT(report.config); params = adapt(tree, report.config)

`report.config` is the network that the file is for: the table's, with what the file's format or
names decide (LayerNorm's epsilon, pooling). `report.identity` is what results carry.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jax_prompt.backbones.architectures import ARCHITECTURES
from jax_prompt.backbones.table import lookup
from jax_prompt.core.colour import Colour
from jax_prompt.core.files import whole_file
from jax_prompt.core.tree import Tree, flatten, unflatten, unstack_layers
from jax_prompt.weights.families import FAMILIES
from jax_prompt.weights.family import WeightsFamily
from jax_prompt.weights.fetch import fetched_note, weights_file, weights_name
from jax_prompt.weights.identity import Identity, LoadReport, colour
from jax_prompt.weights.origin import KEY, Origin, as_recorded, find_origin
from jax_prompt.weights.readers import Contents, read
from jax_prompt.weights.rules import apply, match_names
from jax_prompt.weights.ways import Given
from jax_prompt.weights.wrappers import unwrapped
from jax_prompt.weights.writer import STORED, write_safetensors


def load_weights(
    path: str | Path | None,
    name: str,
    *,
    format: str = 'auto',
    mean: Colour | None = None,
    std: Colour | None = None,
    pool: str = '',
    identity: Identity | None = None,
) -> tuple[Tree, LoadReport]:
    """Loads a checkpoint as the parameters of a backbone of the table.

    Args:
      path: the file; 'auto' for the published one, from the cache or fetched; None for weights that
        ship with the package.
      name: 'arch.tag' or 'arch', see `backbones.table`.
      format: one of `weights.families.FORMATS`, or 'auto' to tell it from the names.
      mean: overrides the normalisation's mean.
      std: overrides the normalisation's standard deviation.
      pool: how the run will pool, where it is not as the weights want; it settles what they want
        (`LoadReport.unsettled`) and changes nothing else.
      identity: what a run has recorded of these weights; they are then read as they were then.

    Returns:
      The tree in per-layer form (`block_00/...`), float32 numpy, its position embedding at the
      file's own grid (`backbones.vit.adapt` resizes it), and the report. Leaves may be read-only
      views of the file, which is read as they are: it must not change while they are used.

    Raises:
      FileNotFoundError: the file is not there; says where it is published.
      NotFetched: 'auto', and it can't be fetched; says what to do without a network.
      ValueError: the file is damaged, of another architecture, or any name is unused, missing or
        misshapen.
    """
    asked, path = path, weights_file(name, path)
    name, fetched = weights_name(name, asked), fetched_note(name, asked)
    family = FAMILIES[lookup(name).config.family]
    if format != 'auto' and format not in family.formats:
        raise ValueError(f"format '{format}' is unknown; allowed: {['auto', *family.formats]}")
    mean = None if mean is None else colour(mean, 'mean')
    std = None if std is None else colour(std, 'std')
    most = _most_bytes(family.leaf_shapes(lookup(name).config))
    contents, unwrapping = unwrapped(read(path, most))
    if identity is None:
        given = Given('' if format == 'auto' else format, mean, std, pool)
        origin = find_origin(contents, name, given, path, family)
    else:
        origin = as_recorded(contents, identity, path, family)
    origin = replace(origin, notes=(*fetched, *unwrapping, *origin.notes))
    if mean is not None or std is not None:
        own = origin.identity
        own = replace(own, mean=mean or own.mean, std=std or own.std)
        notes = (*origin.notes, 'mean or std were given by hand')
        origin = replace(origin, identity=own, notes=notes)
    return _load(contents, origin, name, path, family)


def _load(
    contents: Contents, origin: Origin, name: str, path: Path, family: WeightsFamily
) -> tuple[Tree, LoadReport]:
    """Rearranges a file's tensors, knowing what it is."""
    tensors, config = contents.tensors, origin.config
    matched = match_names(origin.table, tensors, str(path))
    facts, wanted = family.facts_of(matched, tensors), family.facts_asked(config)
    if facts is not None and facts != wanted:
        raise ValueError(
            f'{path} is a {family.name} of {facts}{_named(facts, family)}; asked: {name} '
            f'({wanted}). Ask for the backbone that the file is for.'
        )
    applied = apply(matched, tensors, family.leaf_shapes(config), str(path))
    grid = family.settle(applied.flat, config, str(path))
    report = LoadReport(
        identity=origin.identity,
        config=config,
        form=contents.form,
        container=contents.container,
        grid=grid,
        used=applied.used,
        skipped=applied.skipped,
        left=contents.left,
        notes=origin.notes,
        unsettled=origin.unsettled,
    )
    return unflatten(applied.flat), report


def save_converted(
    path: str | Path,
    tree: Mapping[str, Any],
    identity: Identity,
    dtype: str = 'float32',
    *,
    head: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
) -> None:
    """Writes a tree and its identity as safetensors; `load_weights` reads it.

    Args:
      path: the file; an older one is replaced, at once and only when the new one is complete.
      tree: parameters in per-layer form or stacked.
      identity: which weights these are.
      dtype: stored dtype; 'float16' and 'bfloat16' halve the file and round the weights.
      head: a classifier's {'kernel' [D, K], 'bias' [K]}, kept beside as `head/...`; reading a
        backbone skips it.
      classes: names of its K classes, kept in the header under 'classes' as JSON.

    Raises:
      ValueError: the dtype is unknown, or a weight does not fit in float16.
    """
    if dtype not in STORED:
        raise ValueError(f"dtype '{dtype}' is unknown; allowed: {list(STORED)}")
    text = json.dumps(replace(identity, converted_sha256=None).to_dict(), sort_keys=True)
    with whole_file(path) as file:
        leaves, metadata = flatten(unstack_layers(tree)), {KEY: text}
        if head is not None:
            leaves |= flatten({'head': head})
            metadata['classes'] = json.dumps(list(classes))
        write_safetensors(file, leaves, dtype, metadata)


def _named(facts: Any, family: WeightsFamily) -> str:
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
