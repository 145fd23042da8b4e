"""Writes safetensors leaf by leaf, so that nothing of the file is in memory but one leaf.

The safetensors package joins a file's bytes in memory before it writes them. The bytes here are the
same: https://github.com/huggingface/safetensors, "Format".
"""

import json
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from jax_prompt.core.mapped import dtype_of, release

STORED = {'float32': 'F32', 'float16': 'F16', 'bfloat16': 'BF16'}


def write_safetensors(
    file: IO[bytes],
    leaves: Mapping[str, Any],
    dtype: str,
    metadata: Mapping[str, str],
    *,
    finite: bool = True,
) -> None:
    """Writes {path: array} with its metadata.

    Args:
      file: open for bytes, at its beginning.
      leaves: floating-point arrays; they may be mapped from a file.
      dtype: one of `STORED`; '': that of each leaf.
      metadata: texts kept in the header.
      finite: whether NaN and infinity are refused.

    Raises:
      ValueError: a leaf is not finite in this dtype, or of another one than `STORED`.
    """
    kinds = {path: dtype or np.asarray(leaf).dtype.name for path, leaf in leaves.items()}
    wrong = [path for path in sorted(leaves) if kinds[path] not in STORED]
    if wrong:
        raise ValueError(f'{wrong[0]} is {kinds[wrong[0]]}; allowed: {list(STORED)}')
    stop = 0
    header: dict[str, Any] = {'__metadata__': dict(metadata)}
    for path in sorted(leaves):
        shape, start = np.shape(leaves[path]), stop
        stop += int(np.prod(shape, dtype=np.int64)) * dtype_of(kinds[path]).itemsize
        places = {'shape': list(shape), 'data_offsets': [start, stop]}
        header[path] = {'dtype': STORED[kinds[path]], **places}
    text = json.dumps(header, separators=(',', ':'), ensure_ascii=False).encode()
    text += b' ' * (-len(text) % 8)
    file.write(len(text).to_bytes(8, 'little') + text)
    for path in sorted(leaves):
        leaf = np.asarray(leaves[path])
        with np.errstate(over='ignore'):
            values = np.ascontiguousarray(leaf, dtype=dtype_of(kinds[path]))
        if finite and not np.isfinite(values).all():
            large = bool(np.isfinite(leaf).all())
            way_out = 'store it as float32 or bfloat16' if large else 'it holds NaN or infinity'
            raise ValueError(f'{path} is not finite in {kinds[path]}; {way_out}')
        file.write(values.view(np.uint8).data)
        release(leaf)
