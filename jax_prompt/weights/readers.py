"""Reads checkpoint files: .npz, .safetensors, and torch files, all without torch.

What a file is decides its content, never its suffix. Nothing in a file is executed: npz without
pickles, safetensors by its own reader, torch files by `torch_file`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jax_prompt.core.archive import list_entries
from jax_prompt.core.json_file import parse_json
from jax_prompt.core.mapped import dtype_of, map_bytes, release
from jax_prompt.core.npz import list_arrays, read_array
from jax_prompt.weights.pickle_values import excerpt
from jax_prompt.weights.torch_file import TorchFile
from jax_prompt.weights.unpickler import TensorRef

# Names under which checkpoints keep the weights, the first that is there is taken. A teacher
# stands before its student: it is the one that self-distillation papers evaluate.
CONTAINERS = (
    'state_dict',
    'model_state_dict',
    'model',
    'teacher',
    'target',
    'student',
    'module',
    'params',
)
_SAFETENSORS = {
    'F64': 'float64',
    'F32': 'float32',
    'F16': 'float16',
    'BF16': 'bfloat16',
    'I64': 'int64',
    'I32': 'int32',
    'I16': 'int16',
    'I8': 'int8',
    'U8': 'uint8',
    'BOOL': 'bool',
}
_MAX_NAME = 512  # characters of an array's name
_MAX_HEADER = 2**24  # bytes of a safetensors file's header
_FORMATS = 'a .npz, .safetensors or torch (.pth, .pt, .bin, .pth.tar) file'

# First bytes of what people have instead of a checkpoint -> what to do about it.
_STRANGERS = (
    (b'\x1f\x8b', 'it is gzip-compressed: unpack it first'),
    (b'BZh', 'it is bzip2-compressed: unpack it first'),
    (b'\xfd7zXZ', 'it is xz-compressed: unpack it first'),
    (b'version https://git-lfs', 'it is a git-lfs pointer: fetch the file itself (git lfs pull)'),
    (b'<', 'it is a web page, probably an error page: download the file again'),
    (b'{', 'it is JSON text (of a checkpoint in parts?): give the file with the weights'),
    (b'\x93NUMPY', 'it is a single array (.npy): a checkpoint is a set of named arrays (.npz)'),
    (b'\x89HDF', 'it is an HDF5 file (Keras, TensorFlow): convert it to .npz first'),
)


@dataclass
class Contents:
    """What a checkpoint file holds.

    Attributes:
      tensors: {name: array} as the file names them; arrays may be read-only views of the file.
      form: 'npz', 'safetensors', 'torch zip' or 'torch legacy'.
      container: the nested containers that were opened to find the weights, 'a/b'; '' for none.
      left: names of what lies beside the weights and was left alone (optimizer, epoch, ...).
      metadata: texts kept in the file's header (safetensors only).
    """

    tensors: dict[str, np.ndarray]
    form: str
    container: str = ''
    left: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)


def read(path: str | Path, most: int | None = None) -> Contents:
    """Reads a checkpoint file of any supported kind.

    Args:
      path: the file.
      most: bytes that the compressed arrays of an .npz may unpack to; None: what `core.archive`
        allows. All else is mapped from the file and takes no memory until it is used.

    Returns:
      Its named arrays, in the dtypes of the file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is empty, truncated, damaged, of an unknown kind, or asks for more than
        tensors and plain containers.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f'{path} is a folder; give the checkpoint file in it: {_FORMATS}')
    if not path.is_file():
        raise FileNotFoundError(f'no checkpoint at {path}; give the path of {_FORMATS}')
    try:
        contents = _read(path, most)
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f'{path} is damaged: {error}') from error
    except OSError as error:
        raise ValueError(f'{path} is not readable: {error.strerror or error}') from error
    except Exception as error:  # what damaged bytes may raise elsewhere has no end
        text = f'{type(error).__name__}: {str(error)[:200]}'
        raise ValueError(f'{path} is damaged ({text}); download it again') from error
    try:
        _check_names(contents.tensors)
    except ValueError as error:
        raise ValueError(f'{path}: {error}. The file is damaged or no checkpoint') from error
    return contents


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if len(name) > _MAX_NAME or not name.isprintable():
            raise ValueError(
                f'a name is {excerpt(name)}, {len(name)} characters; at most {_MAX_NAME} are read, '
                'all of them printable'
            )


def _read(path: Path, most: int | None) -> Contents:
    with path.open('rb') as stream:
        head = stream.read(512)
    size = path.stat().st_size
    if not head:
        raise ValueError(f'{path} is empty; download it again')
    if head.startswith(b'PK'):
        return _read_zip(path, most)
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') <= size:
        try:
            tensors, metadata = read_safetensors(path)
        except ValueError as error:
            raise ValueError(f'{path}: {error}; download it again and compare its size') from error
        return Contents(tensors, 'safetensors', metadata=metadata)
    if head[257:262] == b'ustar':
        raise ValueError(
            f'{path} is a tar archive (also used by torch before 0.2); unpack it, or load it with '
            f'torch and save its state_dict again'
        )
    if head[:1] == b'\x80':
        return _read_torch(path)
    for start, advice in _STRANGERS:
        if head.lstrip().startswith(start):
            raise ValueError(f'{path} is no checkpoint: {advice}')
    raise ValueError(f'{path} is no checkpoint that is read here; supported: {_FORMATS}')


def _read_zip(path: Path, most: int | None) -> Contents:
    try:
        names = [entry.name for entry in list_entries(path)]
    except ValueError as error:
        raise ValueError(f'{path}: {error}; download it again and compare its size') from error
    if names and all(name.endswith('.npy') for name in names):
        return _read_npz(path, most)
    if any(name.endswith('/data.pkl') for name in names):
        return _read_torch(path)
    raise ValueError(
        f'{path} is a zip archive, but neither npz nor torch: it holds '
        f'{[name[:80] for name in names[:5]]}; if the checkpoint is in it, unpack it'
    )


def _read_npz(path: Path, most: int | None) -> Contents:
    tensors = {}
    try:
        members = list_arrays(path)
        packed = sum(member.nbytes for member in members.values() if not member.entry.stored)
        if most is not None and packed > most:
            raise ValueError(
                f'its arrays unpack to {packed} bytes, which is more than {most}, too many for '
                f'this backbone'
            )
        for name, member in members.items():
            array = read_array(path, member)
            # Numpy writes bfloat16 as two nameless bytes.
            nameless = array.dtype == np.dtype('V2')
            tensors[name] = array.view(dtype_of('bfloat16')) if nameless else array
            release(array)
    except ValueError as error:
        raise ValueError(
            f'{path}: {error}. Only plain arrays are read; a damaged file is to be downloaded again'
        ) from error
    return Contents(tensors, 'npz')


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a safetensors file.

    Returns:
      Its tensors by name, mapped and read-only, and the texts of its metadata.

    Raises:
      ValueError: it is truncated, damaged, or holds types that are not read. The file is not named.
    """
    import safetensors

    with path.open('rb') as stream:
        head = stream.read(9)
        length = int.from_bytes(head[:8], 'little')
        if head[8:] != b'{':
            raise ValueError('it is no safetensors file' if head else 'it is empty')
        if length > _MAX_HEADER:
            raise ValueError(f'its header has {length} bytes; at most {_MAX_HEADER} are read')
        stream.seek(8)
        text = stream.read(length)
    try:
        with safetensors.safe_open(str(path), framework='np') as file:  # checks the whole header
            names, metadata = list(file.keys()), dict(file.metadata() or {})
        header = parse_json(text.decode('utf-8'), _MAX_HEADER)
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f'it is truncated or damaged ({str(error)[:200]})') from error
    _check_names(names)
    tensors = {}
    for name in names:
        kind, (start, stop) = header[name]['dtype'], header[name]['data_offsets']
        if kind not in _SAFETENSORS:
            raise ValueError(f"'{name}' is of type {kind}; read are {list(_SAFETENSORS)}")
        raw = map_bytes(path, 8 + length + start, stop - start)
        tensors[name] = raw.view(dtype_of(_SAFETENSORS[kind])).reshape(header[name]['shape'])
    return tensors, metadata


def _read_torch(path: Path) -> Contents:
    file = TorchFile(path)
    container, weights, left = _open_containers(file.content)
    refs = {str(k): v for k, v in weights.items() if isinstance(v, TensorRef)}
    left += [str(k) for k, v in weights.items() if not isinstance(v, TensorRef)]
    if not refs:
        raise ValueError(
            f'{path} holds no weights: {_describe(file.content)}; expected named tensors, or them '
            f'under one of {list(CONTAINERS)}'
        )
    tensors = {name: file.array(ref) for name, ref in refs.items()}
    return Contents(tensors, file.form, '/'.join(container), tuple(left))


def _open_containers(content: Any) -> tuple[list[str], Mapping[Any, Any], list[str]]:
    """Returns the names of the containers opened, the weights, and what lay beside them."""
    opened: list[str] = []
    left: list[str] = []
    node = content if isinstance(content, dict) else {}
    while len(opened) < 4:
        inner = next((n for n in CONTAINERS if isinstance(node.get(n), dict) and node[n]), None)
        if inner is None:
            break
        left += [str(key) for key in node if key != inner]
        opened.append(inner)
        node = node[inner]
    return opened, node, left


def _describe(content: Any) -> str:
    if isinstance(content, dict):
        return f'its entries are {[str(key)[:40] for key in list(content)[:8]]}'
    return f'it is a {type(content).__name__.lstrip("_").lower()}'
