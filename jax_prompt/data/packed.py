"""Packed npz: all image files of a task in one archive.

Members: `bytes` (uint8, concatenated JPEG or PNG files), `offset` (int64, n + 1: file i is
bytes[offset[i]:offset[i + 1]]), `label` (int32 [n]), `split` (uint8 [n]: 0 train, 1 val, 2 test),
`classes` (str [K]). Where `bytes` is stored uncompressed, as numpy.savez does, it is mapped, not
read.
"""

from pathlib import Path

import numpy as np

from jax_prompt.core.npz import Member, list_arrays, read_array
from jax_prompt.data.decode import decode_image
from jax_prompt.data.draws import Draw, complete
from jax_prompt.data.source import Source, Split, make_source

_KINDS = {'bytes': 'u', 'offset': 'iu', 'label': 'iu', 'split': 'iu', 'classes': 'U'}
_SPLITS = ('train', 'val', 'test')


def open_packed(path: Path, draw: Draw) -> Source:
    """Opens a packed npz.

    Args:
      path: the file.
      draw: what is taken from train where the pack has no val or no test.

    Returns:
      The source; examples are named 'flowers5.npz[17]' by their place in the pack.

    Raises:
      ValueError: the file is no pack, or its parts do not fit together.
    """
    arrays, crc = _read(path)
    data, membership = arrays['bytes'], arrays['split']
    _check(path, data, arrays['offset'], arrays['label'], membership)
    classes = [str(one) for one in arrays['classes']]
    _check_labels(path, arrays['label'], len(classes))
    offset, labels = arrays['offset'].astype(np.int64), arrays['label'].astype(np.int32)

    def select(name: str, index: np.ndarray) -> Split:
        def where(i: int) -> str:
            return f'{path.name}[{index[i]}]'

        def read(i: int) -> np.ndarray:
            start, stop = offset[index[i]], offset[index[i] + 1]
            return decode_image(data[start:stop].tobytes(), where(i))

        return Split(name, labels[index], read, where)

    parts = {name: np.flatnonzero(membership == code) for code, name in enumerate(_SPLITS)}
    if not len(parts['train']):
        raise ValueError(f"{path}: no example has split 0 (train); split's values are 0, 1, 2")
    indices = complete(labels, parts, draw)
    splits = {name: select(name, indices[name]) for name in _SPLITS if name in indices}
    members = [indices[name].astype('<i8').tobytes() for name in splits]
    return make_source(
        path.name, classes, splits, [f'{crc:08x}', offset.astype('<i8').tobytes(), *members]
    )


def _read(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """Returns the arrays, and the CRC-32 of `bytes`, which the archive holds."""
    try:
        members = list_arrays(path)
        missing = sorted(_KINDS.keys() - members.keys())
        if missing:
            raise ValueError(f'members {missing} are missing; a pack has {sorted(_KINDS)}')
        arrays = {name: read_array(path, members[name]) for name in _KINDS if name != 'bytes'}
        images = members['bytes']
        arrays['bytes'] = _map(path, images) if images.entry.stored else read_array(path, images)
    except (OSError, ValueError) as error:
        raise ValueError(f'{path}: not a readable pack: {error}') from error
    for name, kinds in _KINDS.items():
        array = arrays[name]
        if array.ndim != 1 or array.dtype.kind not in kinds:
            raise ValueError(
                f'{path}: {name} is {array.dtype} {list(array.shape)}; wanted one axis of '
                + {'u': 'uint8', 'iu': 'integers', 'U': 'strings'}[kinds]
            )
    if arrays['bytes'].dtype != np.uint8:
        raise ValueError(f'{path}: bytes is {arrays["bytes"].dtype}; wanted uint8')
    return arrays, images.entry.crc


def _map(path: Path, member: Member) -> np.ndarray:
    """Maps an uncompressed member of the archive; nothing is read until it is used."""
    if not member.nbytes:
        raise ValueError(f"array '{member.entry.name}' is empty")
    start = member.entry.start + member.head
    return np.memmap(path, member.dtype, 'r', offset=start, shape=member.shape)


def _check(path: Path, data: np.ndarray, offset: np.ndarray, labels, membership) -> None:
    """Raises ValueError where offsets, labels and splits do not fit together."""
    count = len(labels)
    if len(offset) != count + 1 or len(membership) != count:
        raise ValueError(
            f'{path}: {count} labels, {len(offset)} offsets, {len(membership)} splits; wanted n, '
            'n + 1, n'
        )
    bad = np.flatnonzero(offset[1:] <= offset[:-1])  # a difference could overflow
    if len(bad):
        raise ValueError(f'{path.name}[{bad[0]}] has no bytes: offsets must increase')
    if offset[0] < 0 or offset[-1] > len(data):
        raise ValueError(
            f'{path}: offsets {offset[0]}..{offset[-1]} leave its {len(data)} bytes; is the file '
            'whole?'
        )
    wrong = np.flatnonzero((membership < 0) | (membership > 2))
    if len(wrong):
        raise ValueError(
            f'{path.name}[{wrong[0]}]: split {membership[wrong[0]]}; allowed: 0 train, 1 val, '
            '2 test'
        )


def _check_labels(path: Path, labels: np.ndarray, num_classes: int) -> None:
    """Raises ValueError where a label, as it is stored, lies outside the classes."""
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise ValueError(
            f'{path.name}[{wrong[0]}]: label {labels[wrong[0]]} lies outside the {num_classes} '
            f'classes; {len(wrong)} labels do'
        )
