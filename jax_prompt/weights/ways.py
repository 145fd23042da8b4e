"""The ways in which weights may be meant: what names and shapes leave open of how they are run."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jax_prompt.backbones.architectures import Config
from jax_prompt.backbones.table import Entry
from jax_prompt.core.colour import HALF, IMAGENET_MEAN, IMAGENET_STD, Colour
from jax_prompt.weights.family import WeightsFamily
from jax_prompt.weights.identity import listed
from jax_prompt.weights.sidecars import Sidecar
from jax_prompt.weights.tables import NameTable

_OPEN = ('pool', 'norm_after_pool', 'norm_epsilon', 'num_heads')  # in no name or shape


@dataclass(frozen=True)
class Way:
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


def ways_of(table: NameTable, entries: Collection[Entry], names: Collection[str]) -> list[Way]:
    """Returns what weights of a format may want: as listed weights of it, else as its authors'."""
    out = []
    arch = next(iter(entries)).arch
    for reading in table.readings:
        if not reading.fits(names):
            continue
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if reading.imagenet else (HALF, HALF)
        alike = [e for e in entries if e.format == table.name and (e.mean, e.std) == (mean, std)]
        out += [Way(table, e.name, e.config, mean, std) for e in alike]
        if not alike:
            config = replace(listed(arch), **reading.fields)
            out.append(Way(table, reading.who, config, mean, std))
    default = next(iter(entries))
    first = [way for way in out if (way.mean, way.std) == (default.mean, default.std)]
    return first + [way for way in out if way not in first]


def decided(
    way: Way, names: Mapping[str, Any], said: Sidecar, family: WeightsFamily, tagged: bool
) -> Way:
    """Returns a way with what names, format and sidecar decide; a tag keeps what it stands for."""
    changes = family.decided(way.table, names)
    # A sidecar's epsilon stands before transformers' default.
    changes |= {field: v for field, v in said.fields.items() if field.endswith('_epsilon')}
    if tagged:
        return replace(way, config=replace(way.config, **changes))
    config = replace(way.config, **{**said.fields, **changes})
    return replace(way, config=config, mean=said.mean or way.mean, std=said.std or way.std)


def _wants(way: Way, given: Given) -> dict[str, Any]:
    """Returns what a way wants beyond names and shapes, with what the user has settled."""
    wants = {name: getattr(way.config, name, None) for name in _OPEN}
    wants['pool'] = given.pool or wants['pool']
    if wants['pool'] == 'cls':
        wants['norm_after_pool'] = None  # the same either way
    return wants | {'mean': given.mean or way.mean, 'std': given.std or way.std}


def unsettled_of(
    ways: Collection[Way], entries: Collection[Entry], given: Given, path: Path
) -> str:
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


def _alike(entry: Entry, way: Way) -> bool:
    same = all(getattr(entry.config, n, 0) == getattr(way.config, n, 0) for n in _OPEN)
    return same and (entry.mean, entry.std) == (way.mean, way.std)


def _short(value: Any) -> str:
    return f'{value[0]:g}...' if isinstance(value, tuple) else str(value)


def _flag(values: Colour) -> str:
    return f'"({", ".join(f"{value:g}" for value in values)})"'
