"""Which weights a file holds, and how they are to be run.

Pooling, the place of the last norm and the normalisation of images are in no name or shape. What
decides them, the first that knows:

1. the user: a tag (`vit_b16_224.mae`), or the format;
2. the file's published name, and the files beside it (`sidecars`);
3. sure signs among the names, such as MAE's decoder;
4. nothing. Where all readings that fit agree, that is no question; else the report says what is
   open (`LoadReport.unsettled`), and training refuses.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from jax_prompt.backbones.architectures import Config
from jax_prompt.backbones.table import TABLE, Entry, lookup, tags
from jax_prompt.core.checksum import hash_file
from jax_prompt.weights.family import WeightsFamily
from jax_prompt.weights.identity import Identity, listed
from jax_prompt.weights.readers import Contents
from jax_prompt.weights.sidecars import ANY_NAME, Sidecar, read_sidecar
from jax_prompt.weights.tables import NameTable
from jax_prompt.weights.ways import Given, Way, decided, unsettled_of, ways_of

KEY = 'jax_prompt'  # of the identity in a converted file's metadata


@dataclass(frozen=True)
class Origin:
    """What a file is: its format, its network, its identity, and what was assumed for that.

    Attributes:
      table: its format.
      config: its network.
      identity: which weights it holds.
      notes: what was assumed.
      unsettled: as in `LoadReport`.
    """

    table: NameTable
    config: Config
    identity: Identity
    notes: tuple[str, ...] = ()
    unsettled: str = ''


def find_origin(
    contents: Contents, name: str, given: Given, path: Path, family: WeightsFamily
) -> Origin:
    """Finds out what a file is.

    Raises:
      ValueError: it is of no known format, of another than was asked for, or contradicts itself.
    """
    digest = hash_file(path)
    if KEY in contents.metadata:
        return _converted(contents, name, path, digest, family)
    asked = lookup(name)
    tagged = name == asked.name
    entries = [asked] if tagged else [lookup(full) for full in tags(asked.arch)]
    said = read_sidecar(path, asked.config, family.hub)
    known = _recognised(asked.arch, path, digest, said)
    entry = asked if tagged else known
    names = contents.tensors
    if given.format:
        tables = [family.formats[given.format]]
    else:
        expected = entry.format if entry else ''
        tables = family.detect(names, contents.container, expected, str(path))
        tables = [table for table in tables if table.name == said.format] or tables
    if tables[0].prefix(names) is None:
        raise ValueError(
            f"{path} lacks '{tables[0].anchor}', so it is not of format {tables[0].name}; leave "
            f'the format to be found, or give one of {list(family.formats)}'
        )
    notes = list(said.notes)
    if entry is not None:
        way = Way(tables[0], entry.name, entry.config, entry.mean, entry.std)
        way, unsettled = decided(way, names, said, family, tagged), ''
        notes += _contradictions(entry, known, said, names) if tagged else []
    else:
        ways = [
            decided(way, names, said, family, False)
            for table in tables
            for way in ways_of(table, entries, names)
        ]
        way = ways[0]
        unsettled = unsettled_of(ways, entries, given, path)
        beside = f', as {" and ".join(said.files)} beside it says' if said.files else ''
        notes.append(
            f'{path.name} is in no table: read as a {way.table.name} file, pooled by '
            f'{way.config.pool!r}, normalised by mean {way.mean}{beside}; if that is wrong, ask '
            'for arch.tag, or give mean and std'
        )
    own = known.name if known else asked.arch  # a tag that was asked for is no evidence
    identity = Identity(
        name=own,
        source=path.name,
        sha256=digest,
        format=way.table.name,
        mean=way.mean,
        std=way.std,
        overrides=differences(way.config, listed(own)),
        asked=name,
    )
    return Origin(way.table, way.config, identity, tuple(notes), unsettled)


def as_recorded(
    contents: Contents, identity: Identity, path: Path, family: WeightsFamily
) -> Origin:
    """Returns the origin of a file that a run has recorded, whatever now lies beside the file.

    Raises:
      ValueError: the file is another one.
    """
    digest = hash_file(path)
    if KEY in contents.metadata:
        found = _converted(contents, listed_arch(identity.name), path, digest, family)
        table, original = found.table, found.identity.sha256
    else:
        table, original = family.formats[identity.format], digest
    if original != identity.sha256 or table.prefix(contents.tensors) is None:
        raise ValueError(
            f'the run was trained on weights with sha256 {identity.sha256}; {path} has {original}. '
            'Put the original file back'
        )
    return Origin(table, identity.config(), identity)


def listed_arch(name: str) -> str:
    """Returns the architecture of 'arch.tag'."""
    return name.partition('.')[0]


def _recognised(arch: str, path: Path, digest: str, said: Sidecar) -> Entry | None:
    """Returns the published weights that a file shows itself to be, by its name or its sidecar."""
    entries = [lookup(full) for full in tags(arch)]
    by_name = [e for e in entries if e.filename == path.name and path.name not in ANY_NAME]
    if by_name:
        entry = by_name[0]
        if entry.sha256 not in (None, digest):
            raise ValueError(
                f'{path} has sha256 {digest}; the published {entry.filename} has {entry.sha256}. '
                f'Download it again from {entry.url}, or rename your own file.'
            )
        return entry
    return next((e for e in entries if e.name == said.name), None)


def _contradictions(
    asked: Entry, known: Entry | None, said: Sidecar, names: Mapping[str, Any]
) -> list[str]:
    """Returns what in a file or beside it speaks against the tag that the user gave."""
    notes = []
    if known is not None and known.name != asked.name:
        notes.append(f'asked for as {asked.name}, but the file is {known.name}: run as asked')
    if said.mean is not None and (said.mean, said.std) != (asked.mean, asked.std):
        notes.append(
            f'{" and ".join(said.files)} beside the file says mean {said.mean}, std {said.std}; '
            f'{asked.name} stands for mean {asked.mean}, std {asked.std}, which is taken'
        )
    heads = said.fields.get('num_heads')
    if heads is not None and heads != getattr(asked.config, 'num_heads', heads):
        notes.append(
            f'config.json beside the file says {heads} heads; {asked.name} is run as it is'
        )
    tag = asked.name.partition('.')[2]
    large = 'in1k' not in tag and ('in21k' in tag or 'in22k' in tag)
    head = next((names[n] for n in ('head.weight', 'head.fc.weight') if n in names), None)
    if large and head is not None and head.shape[0] == 1000:
        notes.append(
            f'the file has a head of 1000 classes, as after fine-tuning on ImageNet-1k; '
            f'{asked.name} was not fine-tuned: it is run as asked'
        )
    return notes


def _converted(
    contents: Contents, name: str, path: Path, digest: str, family: WeightsFamily
) -> Origin:
    """The origin of a file that `save_converted` wrote: what it says itself."""
    try:
        identity = Identity.from_dict(json.loads(contents.metadata[KEY]))
        config = identity.config()
    except (TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f'{path}: its identity is damaged ({error}); convert it again') from error
    asked, held = lookup(name), identity.label
    if listed_arch(held) != asked.arch or (name == asked.name and '.' in held and held != name):
        way_out = held if held in TABLE else listed_arch(held)  # an export has a name of its own
        raise ValueError(
            f'{path} holds {held}; asked: {name}. Give a file of {name}, or ask for {way_out}.'
        )
    table = family.formats['jax_prompt']
    request = name if '.' in name else identity.asked or name
    identity = replace(identity, converted_sha256=digest, asked=request)
    return Origin(table, config, identity)


def differences(config: Config, other: Config) -> tuple[tuple[str, Any], ...]:
    """Returns (field, value) pairs in which a network differs from another."""
    names = [field.name for field in fields(config)]
    pairs = [(name, getattr(config, name), getattr(other, name)) for name in sorted(names)]
    return tuple((name, value) for name, value, base in pairs if value != base)
