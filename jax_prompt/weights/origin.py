"""Which weights a file holds, and how they are to be run.

Pooling, the place of the last norm and the normalisation of images are in no name or shape. What
decides them, the first that knows:

1. the user: a tag (`vit_b16_224.mae`), or the format;
2. the file's published name, and the files beside it (`sidecars`);
3. sure signs among the names, such as MAE's decoder;
4. nothing. Where all readings that fit agree, that is no question; else the report says what is
   open (`LoadReport.unsettled`), and training refuses.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from jax_prompt.backbones.architectures import Config
from jax_prompt.backbones.table import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    TABLE,
    Colour,
    Entry,
    lookup,
    tags,
)
from jax_prompt.weights.families import WeightsFamily
from jax_prompt.weights.identity import Identity, listed
from jax_prompt.weights.readers import Contents
from jax_prompt.weights.sidecars import ANY_NAME, Sidecar, read_sidecar
from jax_prompt.weights.tables import NameTable

KEY = 'jax_prompt'  # of the identity in a converted file's metadata
_OPEN = ('pool', 'norm_after_pool', 'norm_epsilon', 'num_heads')  # in no name or shape


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


@dataclass(frozen=True)
class _Way:
    """One way in which the weights may be meant."""

    table: NameTable
    who: str
    config: Config
    mean: Colour
    std: Colour


@dataclass(frozen=True)
class Given:
    """What the user has said of a file beside the backbone's name; None or '': nothing.

    Attributes:
      format: its format.
      mean: of images in [0, 1].
      std: likewise.
      pool: how the run pools, whatever the weights want.
    """

    format: str = ''
    mean: Colour | None = None
    std: Colour | None = None
    pool: str = ''


def find_origin(
    contents: Contents, name: str, given: Given, path: Path, family: WeightsFamily
) -> Origin:
    """Finds out what a file is.

    Raises:
      ValueError: it is of no known format, of another than was asked for, or contradicts itself.
    """
    digest = _sha256(path)
    if KEY in contents.metadata:
        return _converted(contents, name, path, digest, family)
    asked = lookup(name)
    tagged = name == asked.name
    entries = [asked] if tagged else [lookup(full) for full in tags(asked.arch)]
    said = read_sidecar(path, asked.config)
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
        way = _Way(tables[0], entry.name, entry.config, entry.mean, entry.std)
        way, unsettled = _decided(way, names, said, family, tagged), ''
        notes += _contradictions(entry, known, said, names) if tagged else []
    else:
        ways = [
            _decided(way, names, said, family, False)
            for table in tables
            for way in _ways(table, entries, names)
        ]
        way = ways[0]
        unsettled = _unsettled(ways, entries, given, path)
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
    digest = _sha256(path)
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


def _ways(table: NameTable, entries: Collection[Entry], names: Collection[str]) -> list[_Way]:
    """Returns what weights of a format may want: as listed weights of it, else as its authors'."""
    out = []
    arch = next(iter(entries)).arch
    for reading in table.readings:
        if not reading.fits(names):
            continue
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if reading.imagenet else (HALF, HALF)
        alike = [e for e in entries if e.format == table.name and (e.mean, e.std) == (mean, std)]
        out += [_Way(table, e.name, e.config, mean, std) for e in alike]
        if not alike:
            config = replace(listed(arch), **reading.fields)
            out.append(_Way(table, reading.who, config, mean, std))
    default = next(iter(entries))
    first = [way for way in out if (way.mean, way.std) == (default.mean, default.std)]
    return first + [way for way in out if way not in first]


def _decided(
    way: _Way, names: Mapping[str, Any], said: Sidecar, family: WeightsFamily, tagged: bool
) -> _Way:
    """Returns a way with what names, format and sidecar decide; a tag keeps what it stands for."""
    changes = family.decided(way.table, names)
    if 'norm_epsilon' in said.fields:  # else transformers' default
        changes['norm_epsilon'] = said.fields['norm_epsilon']
    if tagged:
        return replace(way, config=replace(way.config, **changes))
    config = replace(way.config, **{**said.fields, **changes})
    return replace(way, config=config, mean=said.mean or way.mean, std=said.std or way.std)


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


def _wants(way: _Way, given: Given) -> dict[str, Any]:
    """Returns what a way wants beyond names and shapes, with what the user has settled."""
    wants = {name: getattr(way.config, name, None) for name in _OPEN}
    wants['pool'] = given.pool or wants['pool']
    if wants['pool'] == 'cls':
        wants['norm_after_pool'] = None  # the same either way
    return wants | {'mean': given.mean or way.mean, 'std': given.std or way.std}


def _unsettled(ways: Collection[_Way], entries: Collection[Entry], given: Given, path: Path) -> str:
    """Returns why it is not known how the weights are to be run; '' where it is."""
    wants = [_wants(way, given) for way in ways]
    open_ = [name for name in wants[0] if len({want[name] for want in wants}) > 1]
    if not open_:
        return ''
    lines: dict[str, str] = {}
    for way, want in zip(ways, wants, strict=True):
        fit = [e.name for e in entries if _alike(e, way)]
        tag = f'--config.backbone={fit[0]}' if fit else ''
        ask = tag or f'--config.weights_format={way.table.name}'
        shown = [name for name in open_ if name != 'std' and want[name] is not None]
        what = ', '.join(f'{name} {_short(want[name])}' for name in shown)
        if not fit and 'mean' in open_ and len(way.table.readings) > 1:
            ask += f' --config.model.mean={_flag(way.mean)} --config.model.std={_flag(way.std)}'
        lines.setdefault(str(want), f'{ask} ({what if fit else f"as {way.who}: {what}"})')
    return (
        f'{path} does not say how its weights are to be run: {", ".join(open_)} may differ. Say '
        f'which it is: {"; or ".join(lines.values())}'
    )


def _alike(entry: Entry, way: _Way) -> bool:
    same = all(getattr(entry.config, n, 0) == getattr(way.config, n, 0) for n in _OPEN)
    return same and (entry.mean, entry.std) == (way.mean, way.std)


def _short(value: Any) -> str:
    return f'{value[0]:g}...' if isinstance(value, tuple) else str(value)


def _flag(values: Colour) -> str:
    return f'"({", ".join(f"{value:g}" for value in values)})"'


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
        raise ValueError(f'{path} holds {held}; asked: {name}. Ask for {way_out}.')
    table = family.formats['jax_prompt']
    request = name if '.' in name else identity.asked or name
    identity = replace(identity, converted_sha256=digest, asked=request)
    return Origin(table, config, identity)


def differences(config: Config, other: Config) -> tuple[tuple[str, Any], ...]:
    """Returns (field, value) pairs in which a network differs from another."""
    names = [field.name for field in fields(config)]
    pairs = [(name, getattr(config, name), getattr(other, name)) for name in sorted(names)]
    return tuple((name, value) for name, value, base in pairs if value != base)


def _sha256(path: Path) -> str:
    with path.open('rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()
