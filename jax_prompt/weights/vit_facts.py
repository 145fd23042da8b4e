"""What a checkpoint says of its ViT, and its position embedding."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.weights.family import Hub, WeightsFamily
from jax_prompt.weights.rules import Matched, layer_of
from jax_prompt.weights.tables import NameTable
from jax_prompt.weights.vit import FORMATS, STRANGERS


@dataclass(frozen=True)
class Facts:
    """What names and shapes say of the network. Heads leave no trace in them."""

    width: int
    depth: int
    patch_size: int
    mlp_dim: int
    class_token: bool
    num_registers: int
    layer_scale: bool

    def __str__(self) -> str:
        more = f', {self.num_registers} registers' if self.num_registers else ''
        more += ', layer scale' if self.layer_scale else ''
        more += '' if self.class_token else ', no class token'
        return f'width {self.width}, depth {self.depth}, patch {self.patch_size}{more}'


def _facts_of(matched: Matched, tensors: Mapping[str, np.ndarray]) -> Facts | None:
    """Returns what a file says of its network, None where it lacks the names that say it."""
    shapes = matched.shapes(tensors)
    patch = shapes.get('patch_embed/kernel', ())
    fc1 = shapes.get('block_00/mlp/fc1/bias', ())
    layers = [layer for path in shapes if (layer := layer_of(path)) is not None]
    if len(patch) != 4 or len(fc1) != 1:
        return None
    return Facts(
        width=patch[3],
        depth=max(layers) + 1,
        patch_size=patch[0],
        mlp_dim=fc1[0],
        class_token='cls_token' in shapes,
        num_registers=shapes['register_tokens'][1] if 'register_tokens' in shapes else 0,
        layer_scale='block_00/ls1/scale' in shapes,
    )


def _facts_asked(config: ViTConfig) -> Facts:
    """Returns the same facts of a configuration."""
    return Facts(**{name: getattr(config, name) for name in Facts.__dataclass_fields__})


def _decided(table: NameTable, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns what format and names decide of the network beyond shapes."""
    facts: dict[str, Any] = {}
    if table.name == 'hf' and not any('layer_scale1' in name for name in tensors):
        facts['norm_epsilon'] = 1e-12  # transformers' ViTConfig and ViTMAEConfig
    if any(name.endswith('fc_norm.weight') for name in tensors):
        facts |= {'pool': 'mean', 'norm_after_pool': True}
    return facts


def _settled(flat: dict[str, Any], config: ViTConfig, source: str) -> int:
    """Gives the position embedding the rows that a configuration wants.

    Sources differ in whether class and register tokens have rows of it. Adding a row to its token
    once is the same network, so rows that are not wanted are added to their tokens, and a class
    row that is wanted and not there is zero.

    Args:
      flat: {path: array}; changed in place.
      config: the configuration.
      source: the file, for the error.

    Returns:
      Patches along one side of the file's grid.

    Raises:
      ValueError: the rows are no square grid.
    """
    table = flat['pos_embed']  # [1, rows, D]
    rows, registers = table.shape[1], config.num_registers
    leads = {0, *((1, 1 + registers) if config.class_token else ())}
    grids = {lead: math.isqrt(max(rows - lead, 0)) for lead in leads}
    fitting = [lead for lead, grid in grids.items() if grid and grid**2 + lead == rows]
    if not fitting:
        raise ValueError(
            f'{source}: the position embedding has {rows} rows, which is no square grid with '
            f'{sorted(leads)} rows before it; only square images are supported'
        )
    exact = [lead for lead in fitting if rows - lead == config.grid**2]
    lead = (exact or sorted(fitting, key=lambda n: n != int(config.class_position)))[0]
    if lead > 1:
        flat['register_tokens'] = flat['register_tokens'] + table[:, 1:lead]
    grid = table[:, lead:]
    if config.class_position:
        first = table[:, :1] if lead else np.zeros_like(table[:, :1])
        flat['pos_embed'] = np.concatenate([first, grid], axis=1)  # [1, 1 + N, D]
    else:
        if lead:
            flat['cls_token'] = flat['cls_token'] + table[:, :1]
        flat['pos_embed'] = np.ascontiguousarray(grid)  # [1, N, D]
    return grids[lead]


def _same(config: ViTConfig) -> Mapping[str, Any]:
    return {
        'hidden_size': config.width,
        'patch_size': config.patch_size,
        'num_hidden_layers': config.depth,
    }


FAMILY = WeightsFamily(
    'ViT',
    FORMATS,
    _facts_of,
    _facts_asked,
    Hub(_same, {'layer_norm_eps': 'norm_epsilon', 'num_attention_heads': 'num_heads'}),
    any_size={'pos_embed': 1},
    settle=_settled,
    decided=_decided,
    strangers=STRANGERS,
)
