"""Pictures of what a run does inside, by matplotlib, with its own plain backend."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jax_prompt.report.marks import LIGHT, style


def _plots() -> Any:
    """Returns matplotlib.pyplot, drawing to files."""
    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    return plt


def _save(plt: Any, figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _whole_numbers(axes: Any, values: Iterable[int]) -> None:
    """Gives the lower axis whole numbers; one alone stands in the middle, with its own tick."""
    values = sorted(set(values))
    axes.set_xlim(values[0] - 0.5, values[-1] + 0.5)
    if len(values) == 1:
        axes.set_xticks(values)
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)


def draw_nmi(runs: list[dict[str, Any]], path: Path) -> None:
    """Draws NMI by epoch (mean over blocks, and each block) and by block (first and last epoch).

    The upper row is eq. 7 as printed, the lower one has tokens centred at the mean patch.

    Args:
      runs: contents of diagnostics.json with 'nmi' and 'nmi_centred' [epochs, L].
      path: the picture.
    """
    plt = _plots()
    figure, grid = plt.subplots(2, 2, figsize=(9, 6.4), layout='constrained')
    methods = [run['method'] for run in runs]
    seen = [epoch for run in runs for epoch in run['epochs']]
    names = methods if len(set(methods)) == len(runs) else [run['run'] for run in runs]
    kinds = {'nmi': 'eq. 7', 'nmi_centred': 'centred tokens'}
    for (left, right), (kind, text) in zip(grid, kinds.items(), strict=True):
        for i, (run, name) in enumerate(zip(runs, names, strict=True)):
            nmi, epochs, (number, shape) = np.array(run[kind]), run['epochs'], style(i)
            colour, point = LIGHT[number], '.' if len(epochs) == 1 else None
            left.plot(epochs, nmi, color=colour, alpha=0.2, linewidth=0.8, marker=point)
            left.plot(epochs, nmi.mean(axis=1), color=colour, marker=shape, label=name)
            blocks = np.arange(1, nmi.shape[1] + 1)
            ends = {epochs[0]: '--', epochs[-1]: '-'}
            for at, (epoch, dash) in zip((0, -1), ends.items(), strict=False):
                label = f'{name}, epoch {epoch}'
                right.plot(blocks, nmi[at], color=colour, linestyle=dash, marker='.', label=label)
        left.set(xlabel='epoch', ylabel=f'NMI, {text}', title='mean over blocks (faint: each)')
        right.set(xlabel='block', title='by block', xticks=blocks[:: -(-len(blocks) // 12)])
        _whole_numbers(left, seen)
        for axes in (left, right):
            axes.set_ylim(bottom=0.0)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
    _save(plt, figure, path)


def draw_cka(cka: np.ndarray, method: str, path: Path) -> None:
    """Draws CKA [L, L], prompts of a block by row, patches of a block by column."""
    plt = _plots()
    figure, axes = plt.subplots(figsize=(4.8, 4), layout='constrained')
    edges = (0.5, len(cka) + 0.5)
    drawn = axes.imshow(cka, vmin=0.0, origin='lower', extent=(*edges, *edges))
    axes.set(xlabel='patches of block', ylabel='prompts of block', title=f'{method}: linear CKA')
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True)
    figure.colorbar(drawn, ax=axes, label='linear CKA')
    _save(plt, figure, path)


def draw_attention(
    images: np.ndarray, maps: np.ndarray, layers: list[int], who: str, method: str, path: Path
) -> None:
    """Draws attention over images, a row an image, a column a layer.

    Args:
      images: [n, S, S, 3] float32 in [0, 1].
      maps: [layers, n, grid, grid] float32, to patches. Each is drawn from 0 to its own largest
        value, which stands above it; more attention is more opaque.
      layers: of the maps, from 0.
      who: 'class' or 'prompts'.
      method: for the title.
      path: the picture.
    """
    from matplotlib.colors import ListedColormap
    from PIL import Image

    plt, bilinear = _plots(), Image.Resampling.BILINEAR
    # The more attention, the more opaque: the image shows where there is little.
    steps = np.linspace(0.0, 1.0, 256)
    opaque = plt.get_cmap('autumn')(steps)
    opaque[:, 3] = 0.85 * steps
    colours = ListedColormap(opaque)
    side, size = 1.7, images.shape[1]
    shape = (len(images), len(layers) + 1)
    figure, grid = plt.subplots(
        *shape,
        figsize=(side * shape[1] + 0.9, (side + 0.15) * shape[0] + 0.7),
        squeeze=False,
        layout='constrained',
    )
    for row, image, own in zip(grid, images, np.swapaxes(maps, 0, 1), strict=True):
        grey = image.mean(axis=-1)
        row[0].imshow(image)
        for axes, one in zip(row[1:], own, strict=True):
            axes.imshow(grey, cmap='gray', vmin=0.0, vmax=1.0)
            top = float(one.max()) or 1.0  # a map of zeros stays one
            smooth = np.asarray(Image.fromarray(one / top).resize((size, size), bilinear))
            drawn = axes.imshow(smooth, cmap=colours, vmin=0.0, vmax=1.0)
            axes.set_title(f'largest {100 * one.max():.2g} %', fontsize=7, pad=2)
        for axes in row:
            axes.axis('off')
    heads = ['image', *(f'block {i + 1}' for i in layers)]
    for i, (axes, text) in enumerate(zip(grid[0], heads, strict=True)):
        own = axes.get_title()
        axes.set_title(f'{text}\n{own}' if i else text, fontsize=8, pad=2)
    bar = figure.colorbar(drawn, ax=grid, shrink=min(1.0, 3 / len(images)), pad=0.02)
    bar.set_label("attention to a patch,\n1 is each map's largest", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    source = {'class': 'the class token', 'prompts': 'prompts (mean)'}[who]
    figure.suptitle(f'{method}: attention of {source} to patches', fontsize=10)
    _save(plt, figure, path)


def draw_residuals(residuals: dict[str, np.ndarray], method: str, path: Path) -> None:
    """Draws relative residuals [steps, images] of each block's solve, log scale."""
    plt = _plots()
    figure, axes = plt.subplots(figsize=(5, 3.6), layout='constrained')
    for i, (name, part) in enumerate(residuals.items()):
        steps = np.arange(1, len(part) + 1)
        point = '.' if len(part) == 1 else None  # one step has no line
        look = {'color': f'C{i}', 'marker': point}
        axes.plot(steps, part, alpha=0.25, linewidth=0.8, **look)
        axes.plot(steps, np.median(part, axis=1), label=f'{name.upper()}, median', **look)
    axes.set(xlabel='evaluations of f', ylabel='|| f(z) - z || / || f(z) ||')
    axes.set_yscale('log', nonpositive='clip')  # a solve may end at 0 exactly
    _whole_numbers(axes, range(1, max(map(len, residuals.values())) + 1))
    axes.set_title(f'{method}: residual of the forward solves', fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    _save(plt, figure, path)


def draw_gates(epochs: list[int], gates: np.ndarray, path: Path) -> None:
    """Draws gates [epochs, L - 1], a line a block."""
    plt = _plots()
    figure, axes = plt.subplots(figsize=(5.8, 4), layout='constrained')
    colours = plt.get_cmap('viridis')(np.linspace(0.0, 0.95, gates.shape[1]))
    for block, colour in enumerate(colours):
        text = f'{block + 1} to {block + 2}'
        axes.plot(epochs, gates[:, block], color=colour, marker='.', label=text)
    axes.set(xlabel='epoch', ylabel='gate\n(0: prompts as they came in, 1: as they go out)')
    _whole_numbers(axes, epochs)
    axes.grid(alpha=0.3)
    axes.legend(title='blocks', fontsize=7, title_fontsize=8, ncols=2)
    _save(plt, figure, path)
