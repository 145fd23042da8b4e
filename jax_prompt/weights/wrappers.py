"""Names and layouts that a program put around a network's own, taken off before names are told."""

import re
from dataclasses import replace

import numpy as np

from jax_prompt.weights.readers import Contents

_COMPILED = '_orig_mod.'  # of torch.compile, at the head or after another prefix
_SCANNED = re.compile(r'(.*Transformer/encoderblock)/(.+)')  # big_vision with scan=True
_MOST_LAYERS = 1000


def unwrapped(contents: Contents) -> tuple[Contents, tuple[str, ...]]:
    """Returns the contents with plain names, and notes of what was taken off.

    Leaves of scanned blocks [L, ...] become L leaves, views of the file.

    Raises:
      ValueError: leaves of scanned blocks of different numbers of layers.
    """
    tensors, notes = contents.tensors, []
    plain = {re.sub(rf'(^|\.){_COMPILED}', r'\1', name): name for name in tensors}
    if len(plain) == len(tensors) and set(plain) != set(tensors):
        tensors = {bare: tensors[name] for bare, name in plain.items()}
        notes.append(f"'{_COMPILED}' of torch.compile was taken off the names")
    scanned = {name: match for name in tensors if (match := _SCANNED.fullmatch(name))}
    if scanned:
        tensors = _unstacked(tensors, scanned)
        notes.append('the blocks lie stacked in the file, as big_vision scans them')
    return replace(contents, tensors=tensors), tuple(notes)


def _unstacked(
    tensors: dict[str, np.ndarray], scanned: dict[str, re.Match[str]]
) -> dict[str, np.ndarray]:
    depths = {tensors[name].shape[:1] for name in scanned}
    if len(depths) != 1 or () in depths or max(depths)[0] > _MOST_LAYERS:
        raise ValueError(
            f'stacked blocks have different numbers of layers, or more than {_MOST_LAYERS}: '
            f'{sorted(depths)[:4]}'
        )
    out = {name: tensor for name, tensor in tensors.items() if name not in scanned}
    for name, match in scanned.items():
        block, leaf = match.groups()
        for layer, part in enumerate(tensors[name]):
            out[f'{block}_{layer}/{leaf}'] = part
    return out
