"""Reads a pickle without running anything from it.

`unpickle` knows by name the few things that a checkpoint of weights is made of and answers each
with an object of this file; any other name ends the reading before anything is called. Tensors are
only described (`TensorRef`), not read.

The BUILD opcode sets attributes of any object, unless its class takes the state itself. So what a
pickle can lay hands on is a named tuple, which has none to set (a frozen dataclass with slots is
not safe: it comes with a `__setstate__` that sets them), or a dict that drops or checks its state.

The names are those that `torch.save` writes (PyTorch 0.4 to 2, `torch/serialization.py`).
"""

import pickle
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_MAX_DIMENSIONS = 8
_MAX_REPEATED = 2**20  # elements of a tensor that repeats its values


class Refused(ValueError):
    """The file asks for something that a checkpoint of weights does not need."""


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


class _Dict(dict):
    """Stands in for OrderedDict; attributes of the original (`_metadata`) are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        del state


class _Namespace(dict):
    """Stands in for argparse.Namespace: its attributes as a plain dict."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        if type(state) is dict:
            self.update(state)


class _StorageType(NamedTuple):
    dtype: str


class _NumpyType(NamedTuple):
    """Stands in for numpy.dtype; only its code ('f8') is kept, so its state says nothing new."""

    code: Any

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ('<', '|', '='):
            raise Refused(f'it holds a numpy value of byte order {order!r}')


class _Function(NamedTuple):
    """A function that the pickle may call; unlike a plain function it takes no attributes."""

    call: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorRef:
    """Describes a tensor, having checked that it lies inside its storage."""
    if not isinstance(storage, Storage):
        raise Refused('it builds a tensor from something that is no storage')
    sizes = (offset, *shape, *strides)
    if any(type(size) is not int or size < 0 for size in sizes):
        raise Refused(f'a tensor has offset {offset}, shape {shape}, strides {strides}')
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise Refused(f'a tensor has shape {shape} and strides {strides}')
    elements = 1
    for size in shape:
        elements *= size
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
    return _NumpyType(code)


def _numpy_scalar(kind: Any, data: Any) -> Any:
    codes = {'f8', 'f4', 'f2', 'i8', 'i4', 'i2', 'i1', 'u8', 'u4', 'u2', 'u1', 'b1'}
    if not isinstance(kind, _NumpyType) or kind.code not in codes or type(data) is not bytes:
        raise Refused(f'it holds a numpy value of type {getattr(kind, "code", kind)!r}')
    dtype = np.dtype(kind.code)
    if len(data) != dtype.itemsize:
        raise Refused(f'it holds a numpy value of {len(data)} bytes as {dtype}')
    return np.frombuffer(data, dtype)[0].item()


def _encode(text: Any, encoding: Any = 'latin1') -> bytes:
    if type(text) is not str or encoding != 'latin1':
        raise Refused(f'it encodes text as {encoding!r}')
    return text.encode('latin1')


def _words(*parts: Any) -> str:
    """Stands in for a device or a path: its parts as text."""
    if not all(type(part) in (str, int) for part in parts):
        raise Refused('it builds a device or a path from something that is no text')
    return '/'.join(str(part) for part in parts)


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
    ('torch._utils', '_rebuild_tensor'): _Function(_rebuild_tensor),
    ('torch._utils', '_rebuild_tensor_v2'): _Function(_rebuild_tensor),
    ('torch._utils', '_rebuild_parameter'): _Function(_rebuild_parameter),
    ('torch', 'Size'): _Function(lambda sizes=(): tuple(sizes)),
    ('torch', 'device'): _Function(_words),
    ('pathlib', 'PosixPath'): _Function(_words),
    ('pathlib', 'WindowsPath'): _Function(_words),
    ('numpy', 'dtype'): _Function(_numpy_type),
    ('numpy.core.multiarray', 'scalar'): _Function(_numpy_scalar),
    ('numpy._core.multiarray', 'scalar'): _Function(_numpy_scalar),
    ('_codecs', 'encode'): _Function(_encode),
    ('__builtin__', 'set'): _Function(lambda values=(): frozenset(values)),
    ('builtins', 'set'): _Function(lambda values=(): frozenset(values)),
}
for _name, _dtype in _STORAGES.items():
    _KNOWN['torch', _name] = _StorageType(_dtype)
    _KNOWN['torch.cuda', _name] = _StorageType(_dtype)
for _name in _TYPES.split():
    _KNOWN['torch', _name] = f'torch.{_name}'


class _Unpickler(pickle.Unpickler):
    """A pickle reader that knows the names of `_KNOWN` and no others.

    Attributes:
      storages: {key: storage} of those that the pickle refers to.
    """

    def __init__(self, stream: BinaryIO, encoding: str):
        """Prepares to read one pickle from the stream's place."""
        super().__init__(stream, encoding=encoding)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in for a global name; refuses every other name."""
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise Refused(
                f"it names '{module}.{name}'; a checkpoint of weights needs tensors and plain "
                f'containers only'
            ) from None

    def persistent_load(self, pid: Any) -> Storage:
        """Returns the storage that a persistent id describes."""
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != 'storage':
            raise Refused(f'it refers to {str(pid)[:80]!r}, which is no storage')
        _, kind, key, _, count = pid[:5]
        if not isinstance(kind, _StorageType) or type(key) is not str or type(count) is not int:
            raise Refused('it describes a storage by something that is no type, key and count')
        if count < 0 or (len(pid) == 6 and pid[5] is not None):
            raise Refused(f"its storage '{key}' has {count} values or is a view of another")
        storage = Storage(kind.dtype, key, count)
        if self.storages.setdefault(key, storage) != storage:
            raise Refused(f"it describes its storage '{key}' in two ways")
        return storage


def unpickle(stream: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """Reads the pickle that begins at the stream's place, and leaves the stream after it.

    Returns:
      What the pickle holds (plain containers, numbers, text, `TensorRef`s), and {key: storage} of
      the storages that it refers to.

    Raises:
      Refused: the pickle is damaged, or names anything that is not in `_KNOWN`.
    """
    start = stream.tell()
    try:
        _check_memo(stream)
        stream.seek(start)
        reader = _Unpickler(stream, encoding='latin1')
        return reader.load(), reader.storages
    except Refused:
        raise
    except Exception as error:  # a damaged pickle may raise anything; nothing of it has run
        raise Refused(f'its pickle is damaged ({type(error).__name__}: {error})') from error


def _check_memo(stream: BinaryIO) -> None:
    """Refuses a pickle that numbers its objects beyond its own length.

    Python's reader makes room for all numbers up to the largest, so a few bytes could ask for all
    memory. A number takes a byte at least, so an honest one is below its own place.
    """
    for opcode, argument, place in pickletools.genops(stream):
        if opcode.name in ('PUT', 'BINPUT', 'LONG_BINPUT') and (argument or 0) > (place or 0):
            raise Refused(f'its pickle numbers an object {argument} at byte {place}')
