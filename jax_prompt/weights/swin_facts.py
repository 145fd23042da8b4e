"""What a checkpoint says of its Swin, the leaves that a Swin needs, and its position biases."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_prompt.backbones.swin_config import SwinConfig, merge_name
from jax_prompt.weights.rules import Matched, layer_of
from jax_prompt.weights.tables import NameTable, Shape


@dataclass(frozen=True)
class Facts:
    """What names and shapes say of the network. The image size leaves no trace in them."""

    width: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    patch_size: int
    mlp_dim: int

    def __str__(self) -> str:
        return (
            f'width {self.width}, depths {self.depths}, heads {self.num_heads}, '
            f'patch {self.patch_size}'
        )


def facts_of(matched: Matched, tensors: Mapping[str, np.ndarray]) -> Facts | None:
    """Returns what a file says of its network, None where it lacks the names that say it."""
    shapes = matched.shapes(tensors)
    patch = shapes.get('patch_embed/kernel', ())
    fc1 = shapes.get('block_00/mlp/fc1/bias', ())
    found = {layer_of(p): s for p, s in shapes.items() if p.endswith('/attn/relative_bias')}
    biases = {layer: s for layer, s in found.items() if layer is not None}
    if len(patch) != 4 or len(fc1) != 1 or not biases or any(len(s) != 2 for s in biases.values()):
        return None
    norms = [shapes.get(f'block_{layer:02d}/ln1/scale', (0,)) for layer in sorted(biases)]
    pairs = [(*norm, biases[layer][1]) for norm, layer in zip(norms, sorted(biases), strict=True)]
    stages = [(key, len(list(group))) for key, group in itertools.groupby(pairs)]
    return Facts(
        width=patch[3],
        depths=tuple(count for _, count in stages),
        num_heads=tuple(key[-1] for key, _ in stages),
        patch_size=patch[0],
        mlp_dim=fc1[0],
    )


def facts_asked(config: SwinConfig) -> Facts:
    """Returns the same facts of a configuration."""
    return Facts(
        config.width, config.depths, config.num_heads, config.patch_size, config.mlp_dim_of(0)
    )


def leaf_shapes(config: SwinConfig) -> dict[str, Shape]:
    """Returns {path: shape} of the leaves of a configuration; position biases of any window."""
    d, p = config.width, config.patch_size
    shapes: dict[str, Shape] = {
        'patch_embed/kernel': (p, p, 3, d),
        'patch_embed/bias': (d,),
        **_norm('patch_norm', d),
        **_norm('norm', config.feature_dim),
    }
    for i, (first, depth) in enumerate(zip(config.starts, config.depths, strict=True)):
        d, m = config.width_of(i), config.mlp_dim_of(i)
        if i:
            shapes |= _norm(f'{merge_name(first)}/norm', 2 * d)
            shapes[f'{merge_name(first)}/reduction/kernel'] = (2 * d, d)
        block: dict[str, Shape] = {
            **_norm('ln1', d),
            'attn/qkv/kernel': (d, 3 * d),
            'attn/proj/kernel': (d, d),
            'attn/proj/bias': (d,),
            'attn/relative_bias': (None, config.num_heads[i]),
            **_norm('ln2', d),
            'mlp/fc1/kernel': (d, m),
            'mlp/fc1/bias': (m,),
            'mlp/fc2/kernel': (m, d),
            'mlp/fc2/bias': (d,),
        }
        if config.qkv_bias:
            block['attn/qkv/bias'] = (3 * d,)
        for layer in range(first, first + depth):
            shapes |= {f'block_{layer:02d}/{path}': shape for path, shape in block.items()}
    return shapes


def _norm(path: str, width: int) -> dict[str, Shape]:
    return {f'{path}/scale': (width,), f'{path}/bias': (width,)}


def settle_positions(flat: dict[str, Any], config: SwinConfig, source: str) -> int:
    """Checks the tables of position biases, which keep the file's own windows.

    Args:
      flat: {path: array}.
      config: the configuration.
      source: the file, for the error.

    Returns:
      Patches along one side of the file's windows, in its first stage.

    Raises:
      ValueError: a table is of no square window.
    """
    windows = []
    for layer in range(config.depth):
        rows = flat[f'block_{layer:02d}/attn/relative_bias'].shape[0]
        side = math.isqrt(rows)
        if side * side != rows or side % 2 == 0:
            raise ValueError(
                f'{source}: block {layer} has {rows} relative position biases, which are of no '
                'square window: (2w - 1)^2 are supported'
            )
        windows.append((side + 1) // 2)
    return windows[0]


def decided(table: NameTable, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns what format and names decide of the network beyond shapes: nothing here."""
    del table, tensors
    return {}
