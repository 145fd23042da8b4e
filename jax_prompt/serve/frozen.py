"""The frozen backbone of all tasks: read once, and on the device once.

Packs of one backbone may ask for another image size, whose positions are resized, or for weights in
half precision. What is equal is shared: a leaf is put on the device a second time only where its
values or its dtype differ.
"""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.backbones.families import family_of
from jax_prompt.backbones.table import lookup
from jax_prompt.core.tree import Tree, flatten, num_bytes
from jax_prompt.packs.file import Pack
from jax_prompt.packs.load import find_backbone
from jax_prompt.runs.backbone import LoadedBackbone, build_backbone, check_content
from jax_prompt.runs.config import RunConfig

_IN_TRAINING = ('drop_path_rate', 'patch_drop_rate', 'remat')


class Frozen:
    """A backbone's weights on the device.

    Args:
      weights: their file, or their name in the table of backbones ('vit_micro'); '': they are
        looked for where the first pack says.

    Raises:
      FileNotFoundError: no such file.
      ValueError: neither a file nor a name of the table.
    """

    def __init__(self, weights: str | Path = ''):
        self._given, self._name = str(weights), ''
        path = Path(self._given).expanduser()
        if self._given and self._given != 'auto' and not path.is_file():
            if path.suffix or path.is_absolute():
                raise FileNotFoundError(f'no weights at {path}; give a file or a name')
            self._name, self._given = lookup(self._given).name, ''
        self._content = ''
        self._label = ''
        self._loaded: dict[Any, LoadedBackbone] = {}
        self._trees: dict[Any, Tree] = {}
        self._last: tuple[Any, Tree] | None = None  # what was read last, until it is on the device

    @property
    def label(self) -> str:
        """Name of the weights; '' before the first pack."""
        return self._label

    @property
    def bytes(self) -> int:
        """Bytes on the device; shared leaves count once."""
        leaves = {id(x): x for tree in self._trees.values() for x in jax.tree.leaves(tree)}
        return num_bytes(list(leaves.values()))

    def open(self, pack: Pack, name: str) -> tuple[RunConfig, LoadedBackbone]:
        """Returns a pack's configuration on this machine, and its backbone without the weights.

        Args:
          pack: the pack.
          name: of the pack, for errors.

        Raises:
          FileNotFoundError: the backbone's file is not found.
          ValueError: the pack needs another backbone than this one.
        """
        header = pack.header
        identity, config = header.backbone, header.config
        if self._name and self._name not in (identity.label, identity.asked):
            raise ValueError(f'{name} needs {identity.label}; this backbone is {self._name}')
        if self._content and self._content != header.content:
            raise ValueError(
                f'{name} needs the backbone {identity.label} (sha256 {identity.sha256[:16]}, its '
                f'values {header.content[:16]}); this one is {self._label} (its values '
                f'{self._content[:16]}). Serve it from a backbone of its own'
            )
        config = replace(config, engine=replace(config.engine, num_devices=1, fsdp=1))
        model = replace(config.model, drop_path_rate=0.0, patch_drop_rate=0.0, remat='none')
        key = (identity, config.backbone, config.weights_format, config.image_size, model)
        if key not in self._loaded:
            path = find_backbone(identity, config.weights, self._given, name)
            backbone = build_backbone(replace(config, weights=str(path)), identity)
            tuned_on = f'the file {identity.source}, sha256 {identity.sha256}'
            check_content(backbone, header.content, path, f'{name} was tuned on {tuned_on}')
            assert backbone.tree is not None
            self._last = (backbone.config, backbone.tree)
            self._content, self._label = header.content, identity.label
            self._loaded[key] = replace(backbone, tree=None)
            self.tree(backbone.config, config.model.frozen_dtype)
            self._last = None
        return config, self._loaded[key]

    def tree(self, network: Any, dtype: str) -> Tree:
        """Returns the parameters of a network on the device, stacked as its configuration asks.

        Args:
          network: a configuration that `open` returned, whatever acts in training alone.
          dtype: of the frozen weights.
        """
        known = {f.name for f in fields(network)} & set(_IN_TRAINING)
        kept = [f.name for f in fields(network) if f.name not in known]
        key = (*(getattr(network, name) for name in kept), dtype)
        if key not in self._trees:
            assert self._last is not None, 'a network that no pack has opened'
            self._trees[key] = self._put(network, self._last[1], dtype)
        return self._trees[key]

    def _put(self, network: Any, tree: Tree, dtype: str) -> Tree:
        held = [flatten(one) for one in self._trees.values()]

        def put(path: str, leaf: Any) -> jax.Array:
            for other in held:
                mine = other.get(path)
                if mine is None or mine.shape != leaf.shape or mine.dtype != dtype:
                    continue
                if np.array_equal(np.asarray(leaf).astype(dtype), np.asarray(mine)):
                    return mine
            if isinstance(leaf, np.ndarray) and not leaf.flags.writeable:
                leaf = leaf.copy()  # of the file, whose pages a CPU device would take over
            return jax.block_until_ready(jnp.asarray(leaf, dtype))

        return family_of(network).adapt(tree, network, (), put)
