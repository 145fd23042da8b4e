"""Reads a pickle without running anything from it.

`unpickle` knows by name the few things that a checkpoint of weights is made of and answers each
with an object of this file; any other name ends the reading before anything is called. Tensors are
only described (`TensorRef`), not read. The opcodes are carried out by `pickle_machine`, within
bounds.

The BUILD opcode gives an object its state. Here only an object whose class takes the state itself
gets one: a dict that drops or checks it, or a named tuple that has nothing to set.

The names are those that `torch.save` writes (PyTorch 0.4 to 2, `torch/serialization.py`).
"""

import math
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jax_prompt.weights.pickle_machine import Machine
from jax_prompt.weights.pickle_values import Container, Function, Refused, excerpt

_MAX_DIMENSIONS = 8
_MAX_SIZE = 2**48  # of a dimension, a stride, an offset or a storage, in values
_MAX_PATH = 4096  # characters
_MAX_REPEATED = 2**20  # elements of a tensor that repeats its values


class Storage(NamedTuple):
    """A run of `length` values of `dtype`, kept in the file under `key`."""

    dtype: str
    key: str
    length: int


class TensorRef(NamedTuple):
    """A tensor that the file describes: a strided view of a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Dict(Container):
    """Stands in for OrderedDict; attributes of the original (`_metadata`) are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        del state


class _Namespace(Container):
    """Stands in for argparse.Namespace: its attributes as a plain dict."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        if type(state) is dict:
            self.update(state)


class _StorageType(NamedTuple):
    dtype: str


class _NumpyType(NamedTuple):
    """Stands in for numpy.dtype; only its code ('f8') is kept, so its state says nothing new."""

    code: str

    def __setstate__(self, state: Any) -> None:
        order = state[1] if type(state) is tuple and len(state) > 1 else None
        if type(order) is not str or order not in ('<', '|', '='):
            raise Refused(f'it holds a numpy value of byte order {excerpt(order)}')


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorRef:
    """Describes a tensor, having checked that it lies inside its storage."""
    if not isinstance(storage, Storage):
        raise Refused('it builds a tensor from something that is no storage')
    if not all(type(sizes) in (tuple, list) for sizes in (shape, strides)):
        raise Refused(f'a tensor has shape {excerpt(shape)}, strides {excerpt(strides)}')
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise Refused(f'a tensor has {len(shape)} dimensions and {len(strides)} strides')
    sizes = (offset, *shape, *strides)
    if any(type(size) is not int or not 0 <= size < _MAX_SIZE for size in sizes):
        raise Refused(
            f'a tensor has offset {excerpt(offset)}, shape {excerpt(shape)}, '
            f'strides {excerpt(strides)}'
        )
    elements = math.prod(shape)
    if math.prod(size for size in shape if size) > _MAX_SIZE:
        raise Refused(f'a tensor has shape {excerpt(shape)}')
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    # Only repeated values (stride 0: `expand`, `broadcast_to`) may be more than the storage holds.
    repeats = any(s == 0 and n > 1 for n, s in zip(shape, strides, strict=True))
    most = max(storage.length, _MAX_REPEATED) if repeats else storage.length
    if elements and (last >= storage.length or elements > most):
        raise Refused(
            f'a tensor of shape {tuple(shape)}, strides {tuple(strides)}, offset {offset} does not '
            f'lie inside its storage of {storage.length} values'
        )
    return TensorRef(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data: Any, *_: Any) -> TensorRef:
    if not isinstance(data, TensorRef):
        raise Refused('it builds a parameter from something that is no tensor')
    return data


def _numpy_type(code: Any, *_: Any) -> _NumpyType:
    if type(code) is not str or len(code) > 8:
        raise Refused(f'it holds a numpy type {excerpt(code)}')
    return _NumpyType(code)


def _numpy_scalar(kind: Any, data: Any) -> Any:
    codes = {'f8', 'f4', 'f2', 'i8', 'i4', 'i2', 'i1', 'u8', 'u4', 'u2', 'u1', 'b1'}
    if not isinstance(kind, _NumpyType) or kind.code not in codes or type(data) is not bytes:
        raise Refused(f'it holds a numpy value of type {excerpt(getattr(kind, "code", kind))}')
    dtype = np.dtype(kind.code)
    if len(data) != dtype.itemsize:
        raise Refused(f'it holds a numpy value of {len(data)} bytes as {dtype}')
    return np.frombuffer(data, dtype)[0].item()


def _encode(text: Any, encoding: Any = 'latin1') -> bytes:
    if type(text) is not str or type(encoding) is not str or encoding != 'latin1':
        raise Refused(f'it encodes text as {excerpt(encoding)}')
    return text.encode('latin1')


def _words(*parts: Any) -> str:
    """Stands in for a device or a path: its parts as text."""
    if not all(type(part) in (str, int) for part in parts):
        raise Refused('it builds a device or a path from something that is no text')
    words = '/'.join(str(part) for part in parts)
    if len(words) > _MAX_PATH:
        raise Refused(f'it builds a device or a path of {len(words)} characters')
    return words


def _size(sizes: Any = ()) -> Any:
    """Stands in for torch.Size, which torch makes from a tuple; nothing is copied."""
    if type(sizes) not in (tuple, list):
        raise Refused('it builds a size from something that is no tuple')
    return sizes


def _set(values: Any = ()) -> Any:
    """Stands in for a set: the list that it is made from. Nothing is hashed or copied."""
    if type(values) not in (tuple, list):
        raise Refused('it builds a set from something that is no list')
    return values


_STORAGES = {
    'DoubleStorage': 'float64',
    'FloatStorage': 'float32',
    'HalfStorage': 'float16',
    'BFloat16Storage': 'bfloat16',
    'LongStorage': 'int64',
    'IntStorage': 'int32',
    'ShortStorage': 'int16',
    'CharStorage': 'int8',
    'ByteStorage': 'uint8',
    'BoolStorage': 'bool',
}
_TYPES = 'float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool float double half long'

# Everything that a pickle may name: (module, name) -> what it gets instead.
_KNOWN: dict[tuple[str, str], Any] = {
    ('collections', 'OrderedDict'): _Dict,
    ('argparse', 'Namespace'): _Namespace,
    ('yacs.config', 'CfgNode'): _Dict,  # the `config` in the authors' own Swin checkpoints
    ('torch._utils', '_rebuild_tensor'): Function(_rebuild_tensor),
    ('torch._utils', '_rebuild_tensor_v2'): Function(_rebuild_tensor),
    ('torch._utils', '_rebuild_parameter'): Function(_rebuild_parameter),
    ('torch', 'Size'): Function(_size),
    ('torch', 'device'): Function(_words),
    ('pathlib', 'PosixPath'): Function(_words),
    ('pathlib', 'WindowsPath'): Function(_words),
    ('numpy', 'dtype'): Function(_numpy_type),
    ('numpy.core.multiarray', 'scalar'): Function(_numpy_scalar),
    ('numpy._core.multiarray', 'scalar'): Function(_numpy_scalar),
    ('_codecs', 'encode'): Function(_encode),
    ('__builtin__', 'set'): Function(_set),
    ('builtins', 'set'): Function(_set),
}
for _name, _dtype in _STORAGES.items():
    _KNOWN['torch', _name] = _StorageType(_dtype)
    _KNOWN['torch.cuda', _name] = _StorageType(_dtype)
for _name in _TYPES.split():
    _KNOWN['torch', _name] = f'torch.{_name}'


class _Storages(dict[str, Storage]):
    """{key: storage} of those that a pickle refers to."""

    def refer(self, pid: Any) -> Storage:
        """Returns the storage that a persistent id describes."""
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != 'storage':
            raise Refused(f'it refers to {excerpt(pid)}, which is no storage')
        _, kind, key, _, count = pid[:5]
        if not isinstance(kind, _StorageType) or type(key) is not str or type(count) is not int:
            raise Refused('it describes a storage by something that is no type, key and count')
        if not 0 <= count < _MAX_SIZE or (len(pid) == 6 and pid[5] is not None):
            raise Refused(
                f'its storage {excerpt(key)} has {excerpt(count)} values or is a view of another'
            )
        storage = Storage(kind.dtype, key, count)
        if self.setdefault(key, storage) != storage:
            raise Refused(f'it describes its storage {excerpt(key)} in two ways')
        return storage


def _find(module: str, name: str) -> Any:
    """Returns the stand-in for a global name; refuses every other name."""
    try:
        return _KNOWN[module, name]
    except KeyError:
        raise Refused(
            f"it names '{module[:80]}.{name[:80]}'; a checkpoint of weights needs tensors and "
            f'plain containers only'
        ) from None


def unpickle(stream: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """Reads the pickle that begins at the stream's place, and leaves the stream after it.

    Returns:
      What the pickle holds (plain containers, numbers, text, `TensorRef`s), and {key: storage} of
      the storages that it refers to.

    Raises:
      Refused: the pickle is damaged, names anything that is not in `_KNOWN`, or goes beyond the
        bounds of `pickle_machine`.
    """
    storages = _Storages()
    try:
        return Machine(_find, storages.refer).run(stream), storages
    except Refused:
        raise
    except Exception as error:  # a damaged pickle may raise anything; nothing of it has run
        text = f'{type(error).__name__}: {str(error)[:200]}'
        raise Refused(f'its pickle is damaged ({text})') from error
