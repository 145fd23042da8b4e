"""The tables and the picture of `bench_pods.py`, of the rows that it compiled."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_pods import BACKBONES, GROUPS, METHODS, Run

Rows = Mapping[Run, Mapping[str, Any]]
_HEAD = (
    *('training step', 'slice', 'fsdp', 'remat', 'weights', 'trained', 'images', 'scratch'),
    *('collectives', 'sends'),
)


def show(rows: Rows, picture: Path | None) -> None:
    """Prints the tables as Markdown, and draws weak scaling where a picture is asked for."""
    print('\n'.join(to_table(_HEAD, map(cells, found(rows, 'table')))), '\n')
    print('\n'.join(to_table(_HEAD, map(cells, found(rows, 'fsdp')))), '\n')
    print('\n'.join(scaling_table(rows)))
    if picture:
        draw(rows, picture)


def found(rows: Rows, group: str) -> list[Mapping[str, Any]]:
    """Returns the rows of a group, backbone by backbone."""
    wanted = [run for run in GROUPS[group]() if run in rows]
    wanted.sort(key=lambda run: (list(BACKBONES).index(run.backbone), run.method != 'vpt_deep'))
    return [rows[run] for run in wanted]


def cells(row: Mapping[str, Any]) -> list[str]:
    """Returns the cells of a row of the large table."""
    name = f'{BACKBONES[row["backbone"]]}, {METHODS[row["method"]]}'
    start = [name, row['topology'], str(row['fsdp']), row['chose']]
    if 'error' in row:
        return [*start, 'does not fit', *5 * ['']]
    held = [size(row[key]) for key in ('weights', 'trained', 'images', 'scratch')]
    return [*start, *held, operations(row['times']), size(row['sent'])]


def operations(times: Mapping[str, int]) -> str:
    """Returns the collective operations of a step in words."""
    return ', '.join(f'{count} {kind}s' for kind, count in sorted(times.items())) or 'none'


def size(nbytes: float) -> str:
    """Returns a number of bytes with three digits.

    >>> size(2_585_715_200), size(153_600), size(0)
    ('2.59 GB', '154 kB', '0')
    """
    for unit, one in (('GB', 1e9), ('MB', 1e6), ('kB', 1e3)):
        if nbytes >= one:
            return f'{nbytes / one:.3g} {unit}'
    return f'{nbytes:.0f}'


def to_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a table in Markdown."""
    return [f'| {" | ".join(row)} |' for row in (head, ['---'] * len(head), *rows)]


def scaling_table(rows: Rows) -> list[str]:
    """Returns weak scaling as a table: a row for each number of chips, of each fsdp two columns."""
    by_place = {(row['chips'], row['fsdp']): row for row in found(rows, 'scaling')}
    shares = sorted({fsdp for _, fsdp in by_place})
    head = ['chips', *(f'{what}, fsdp {fsdp}' for fsdp in shares for what in ('memory', 'sends'))]
    lines = []
    for chips in sorted({chips for chips, _ in by_place}):
        line = [str(chips)]
        for fsdp in shares:
            row = by_place.get((chips, fsdp))
            line += [size(memory(row)), size(row['sent'])] if row else ['', '']
        lines.append(line)
    return to_table(head, lines)


def memory(row: Mapping[str, Any]) -> int:
    """Returns all that a chip holds in a step, in bytes."""
    return sum(row[key] for key in ('weights', 'trained', 'images', 'scratch'))


def draw(rows: Rows, path: Path) -> None:
    """Draws memory and bytes sent of each chip over the number of chips."""
    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout='constrained')
    places = found(rows, 'scaling')
    ticks = sorted({row['chips'] for row in places})
    for share, mark in zip(sorted({row['fsdp'] for row in places}), 'o^D', strict=False):
        mine = sorted((row['chips'], row) for row in places if row['fsdp'] == share)
        chips = [count for count, _ in mine]
        values = ([memory(r) / 1e9 for _, r in mine], [r['sent'] / 1e6 for _, r in mine])
        for one, value in zip(axes, values, strict=True):
            one.plot(chips, value, marker=mark, label=f'fsdp {share}')
    for one, name in zip(axes, ('memory of a chip, GB', 'a chip sends in a step, MB'), strict=True):
        one.set(xscale='log', xlabel='chips (v5e), 32 images each', ylabel=name, ylim=(0, None))
        one.set_xticks(ticks, [str(tick) for tick in ticks])
        one.set_xticks([], minor=True)
        one.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=110)
