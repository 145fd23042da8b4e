"""Reads torch checkpoints without torch.

A torch file is a pickle beside raw storages. Two containers are read: the zip archive of torch 1.6
and later, and the older stream (magic number, protocol, system facts, object, storage keys, raw
storages), which many public checkpoints still are. Both go through `unpickler.unpickle`, which runs
nothing from the file. Tensors are looked up in the file when asked for, so an optimizer's tensors
in the same file cost nothing.

Formats: `torch/serialization.py` of PyTorch 2 (`_save`, `_legacy_save`).
"""

import io
import mmap
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jax_prompt.core.archive import list_entries
from jax_prompt.core.mapped import dtype_of, map_bytes, release
from jax_prompt.weights.pickle_machine import MAX_BYTES
from jax_prompt.weights.pickle_values import Refused
from jax_prompt.weights.unpickler import TensorRef, unpickle

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


class TorchFile:
    """An opened torch checkpoint.

    Attributes:
      content: what the pickle holds: plain containers, numbers, text and `TensorRef`s.
      form: 'torch zip' or 'torch legacy'.
    """

    def __init__(self, path: Path):
        """Opens a file and reads its pickle, not its tensors.

        Args:
          path: the checkpoint.

        Raises:
          ValueError: the file is damaged, or asks for more than tensors and plain containers.
        """
        self.path = path
        try:
            with path.open('rb') as stream:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
                zipped = stream.read(4) == b'PK\x03\x04'
                stream.seek(0)
                self.form = 'torch zip' if zipped else 'torch legacy'
                # key -> (first byte in the file, bytes, checksum where the archive has one)
                self._places: dict[str, tuple[int, int, int | None]] = {}
                self.content = self._read_zip() if zipped else self._read_stream(stream)
        except Refused as error:
            raise ValueError(
                f'{path}: not read: {error}. Only files of plain weights are read; with a file you '
                f'trust, save its state_dict alone (torch.save(model.state_dict(), FILE)) or as '
                f'safetensors, or download it again.'
            ) from error

    def array(self, ref: TensorRef) -> np.ndarray:
        """Returns a tensor as a read-only view of the file.

        Raises:
          ValueError: its storage is missing, too short or damaged.
        """
        storage, name = ref.storage, ref.storage.key[:80]
        dtype = dtype_of(storage.dtype)
        if storage.key not in self._places:
            raise ValueError(f"{self.path}: storage '{name}' is missing; download it again")
        start, size, checksum = self._places[storage.key]
        if storage.length * dtype.itemsize != size:
            raise ValueError(
                f"{self.path}: storage '{name}' has {size} bytes, its tensors need "
                f'{storage.length * dtype.itemsize}; the file is damaged, download it again'
            )
        raw = map_bytes(self.path, start, size)
        if checksum is not None:
            if zlib.crc32(raw.data) != checksum:
                raise ValueError(
                    f"{self.path}: storage '{name}' does not match its checksum; the file "
                    f'is damaged, download it again'
                )
            release(raw)
            self._places[storage.key] = (start, size, None)
        if 0 in ref.shape:
            return np.zeros(ref.shape, dtype)
        strides = tuple(stride * dtype.itemsize for stride in ref.strides)
        values = raw.view(dtype)[ref.offset :]
        return np.lib.stride_tricks.as_strided(values, ref.shape, strides, writeable=False)

    def _read_zip(self) -> Any:
        try:
            entries = list_entries(self.path)
        except ValueError as error:
            raise Refused(str(error)) from error
        names = [entry.name for entry in entries]
        roots = [name.removesuffix('data.pkl') for name in names if name.endswith('/data.pkl')]
        if any('/code/' in name or name.endswith('/constants.pkl') for name in names):
            raise Refused('it is a TorchScript program')
        if len(roots) != 1 or roots[0].count('/') != 1:
            raise Refused(f'it holds {len(roots)} files data.pkl instead of one')
        root = roots[0]
        places = {}
        for entry in entries:
            if not entry.stored:
                name = entry.name[:80]
                raise Refused(
                    f"its member '{name}' is compressed; torch stores members as they are"
                )
            places[entry.name.removeprefix(root)] = (entry.start, entry.size, entry.crc)
        start, size, _ = places.get('byteorder', (0, 0, None))
        if size and self._map[start : start + min(size, 16)].strip() != b'little':
            raise Refused('its storages are big-endian')
        start, size, checksum = places['data.pkl']
        if size > MAX_BYTES:
            raise Refused(f'its pickle has {size} bytes; at most {MAX_BYTES} are read')
        data = self._map[start : start + size]
        if zlib.crc32(data) != checksum:
            raise Refused('its pickle does not match its checksum')
        for name, place in places.items():
            if name.startswith('data/'):
                self._places[name.removeprefix('data/')] = place
        return unpickle(io.BytesIO(data))[0]

    def _read_stream(self, stream: BinaryIO) -> Any:
        if unpickle(stream)[0] != _MAGIC or unpickle(stream)[0] != _PROTOCOL:
            raise Refused('it is a pickle, but no torch checkpoint')
        facts, _ = unpickle(stream)
        if not isinstance(facts, dict) or facts.get('little_endian') is not True:
            raise Refused('its storages are big-endian')
        content, storages = unpickle(stream)
        keys, _ = unpickle(stream)
        known = type(keys) is list and all(type(key) is str and key in storages for key in keys)
        if not known or len(set(keys)) < len(keys):
            raise Refused('its list of storages does not fit its tensors')
        for key in keys:
            # Each storage follows as its number of values, int64, and the values.
            header = stream.read(8)
            size = storages[key].length * dtype_of(storages[key].dtype).itemsize
            start = stream.tell()
            if len(header) != 8 or start + size > len(self._map):
                raise Refused(f"it ends within its storage '{key[:80]}': it is truncated")
            if struct.unpack('<q', header)[0] != storages[key].length:
                raise Refused(f"its storage '{key[:80]}' has another size than its tensors say")
            self._places[key] = (start, size, None)
            stream.seek(start + size)
        return content
