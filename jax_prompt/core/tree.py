"""Parameter trees: paths, the one split into trainable and frozen, the one merge, and counts.

A tree is a nested dict whose leaves are arrays; a path joins its keys with '/':
`backbone/norm/scale`. Layers live in two forms:

- on disk and in rules, one subtree per layer: `block_00/...`, `block_01/...`;
- in a running model, stacked along a leading layer axis, one subtree per segment of consecutive
  layers: `blocks_00_12/...` holds layers 0 to 11 with leaves [12, ...].

A segment ends where a method needs a seam (the cut, or the first of the last k trained blocks), so
"which leaves train" stays a question about paths. `stack_layers` and `unstack_layers` convert.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.core.mapped import release

Tree = dict[str, Any]
Put = Callable[[str, Any], Any]  # what becomes of a leaf at a path

# What neither weight decay nor robust training shrinks, by the last name of its path.
EXEMPT = (
    'bias',
    'scale',
    'offset',
    'gates',
    'temperatures',
    'cls_token',
    'register_tokens',
    'pos_embed',
    'relative_bias',
)
# Running statistics of batch norms, by the last name of their path. They are no parameters: what
# stands in their place among the gradients is no gradient (`nn.batch_norm`).
STATISTICS = ('mean', 'var')

_LAYER = re.compile(r'^block_(\d+)$')
_SEGMENT = re.compile(r'^blocks_(\d+)_(\d+)$')


def flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Returns {path: leaf} in sorted path order; empty subtrees vanish."""
    flat: dict[str, Any] = {}
    for key in sorted(tree):
        path = f'{prefix}{key}'
        value = tree[key]
        if isinstance(value, Mapping):
            flat.update(flatten(value, path + '/'))
        else:
            flat[path] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """Returns the nested tree of {path: leaf}.

    Raises:
      ValueError: a path is a leaf and a subtree at once.
    """
    tree: Tree = {}
    for path, leaf in flat.items():
        *parents, name = path.split('/')
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"'{path}' lies below a leaf; a path is a leaf or a subtree")
        if name in node:
            raise ValueError(f"'{path}' is a leaf and a subtree at once")
        node[name] = leaf
    return tree


def split(params: Mapping[str, Any], trains: Callable[[str], bool]) -> tuple[Tree, Tree]:
    """Splits a tree by path into (trainable, frozen); `merge` puts it together again."""
    flat = flatten(params)
    trainable = {path: leaf for path, leaf in flat.items() if trains(path)}
    frozen = {path: leaf for path, leaf in flat.items() if not trains(path)}
    return unflatten(trainable), unflatten(frozen)


def merge(*trees: Mapping[str, Any]) -> Tree:
    """Merges trees with disjoint leaves.

    Raises:
      ValueError: a path is in more than one tree.
    """
    flat: dict[str, Any] = {}
    for tree in trees:
        part = flatten(tree)
        both = sorted(flat.keys() & part.keys())
        if both:
            raise ValueError(f'paths in more than one tree: {both}; each is trainable or frozen')
        flat.update(part)
    return unflatten(flat)


def is_statistic(path: str) -> bool:
    """Whether a path is that of a batch norm's running statistics."""
    return path.rsplit('/', 1)[-1] in STATISTICS


def count(tree: Any) -> int:
    """Returns the number of scalars in a tree; running statistics do not count."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    kept = [leaf for path, leaf in leaves if getattr(path[-1], 'key', '') not in STATISTICS]
    return sum(int(np.prod(np.shape(leaf))) for leaf in kept)


def num_bytes(tree: Any) -> int:
    """Returns the bytes that a tree's leaves take."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def misfits(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Says which leaves, {path: leaf}, are missing, too many, or of another shape than wanted.

    >>> misfits({'a': np.ones(2), 'b': 0.0}, {'a': np.ones(3), 'c': 0.0})
    ['a is (2,), wanted (3,)', 'b is (), wanted nothing there', 'c is missing, wanted ()']
    """
    out = []
    for path in sorted(held.keys() | wanted.keys()):
        have = np.shape(held[path]) if path in held else 'missing'
        want = np.shape(wanted[path]) if path in wanted else 'nothing there'
        out += [] if have == want else [f'{path} is {have}, wanted {want}']
    return out


def segment_name(start: int, stop: int) -> str:
    """Returns the name of the segment of layers start..stop-1: `blocks_00_12`."""
    return f'blocks_{start:02d}_{stop:02d}'


def segment_span(name: str) -> tuple[int, int] | None:
    """Returns (start, stop) of a segment's name, None for another name."""
    match = _SEGMENT.match(name)
    return (int(match.group(1)), int(match.group(2))) if match else None


def segments(depth: int, seams: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Returns the (start, stop) of each segment of `depth` layers cut at `seams`.

    >>> segments(12, (8,))
    [(0, 8), (8, 12)]
    """
    wrong = [seam for seam in seams if not 0 <= seam <= depth]
    if wrong:
        raise ValueError(f'seams {wrong} lie outside the {depth} layers; allowed: 0..{depth}')
    edges = sorted({0, depth, *seams})
    return list(itertools.pairwise(edges))


def keep(path: str, leaf: Any) -> Any:
    """Returns the leaf as it is."""
    del path
    return leaf


def stack_layers(tree: Mapping[str, Any], seams: Sequence[int] = (), put: Put = keep) -> Tree:
    """Stacks `block_00`, `block_01`, ... into segments `blocks_00_12` with leaves [layers, ...].

    Numpy leaves are stacked by numpy (no device memory), others by jax.

    Args:
      tree: in per-layer form.
      seams: layers at which segments end.
      put: gives what stands for each leaf of the result. A leaf is made when the one before it has
        been put, so that a tree of mapped files goes to a device with a single leaf between them.
    """
    layers = {int(m.group(1)): tree[key] for key in tree if (m := _LAYER.match(key))}
    if sorted(layers) != list(range(len(layers))):
        raise ValueError(f'layers {sorted(layers)} are not consecutive from 0; blocks are missing')
    rest = flatten({key: value for key, value in tree.items() if not _LAYER.match(key)})
    flat = {path: put(path, leaf) for path, leaf in rest.items()}
    for start, stop in segments(len(layers), seams):
        prefix = f'{segment_name(start, stop)}/'
        parts = [flatten(layers[i], prefix) for i in range(start, stop)]
        if any(part.keys() != parts[0].keys() for part in parts):
            raise ValueError(f'layers {start} to {stop - 1} differ in their leaves; set a seam')
        flat |= {path: put(path, _stack([part[path] for part in parts])) for path in parts[0]}
    return unflatten(flat)


def unstack_layers(tree: Mapping[str, Any]) -> Tree:
    """The inverse of `stack_layers`, for any seams."""
    out: Tree = {}
    for key, value in tree.items():
        span = segment_span(key)
        if span is None:
            out[key] = value
            continue
        start, stop = span
        for layer in range(start, stop):
            out[f'block_{layer:02d}'] = jax.tree.map(lambda leaf, i=layer - start: leaf[i], value)
    return out


def map_layers(tree: Mapping[str, Any], change: Callable[[int, Tree], Tree]) -> Tree:
    """Returns the tree with each layer's subtree replaced by `change(layer, subtree)`.

    Args:
      tree: in either form, which is kept.
      change: maps a layer's index and its subtree (leaves without the layer axis) to a new one.
    """
    starts = [span[0] for key in tree if (span := segment_span(key))]
    out = {
        key: change(int(match.group(1)), value) if (match := _LAYER.match(key)) else value
        for key, value in unstack_layers(tree).items()
    }
    return stack_layers(out, starts) if starts else out


def _stack(leaves: Sequence[Any]) -> Any:
    if not all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return jnp.stack(leaves)
    stacked = _aligned((len(leaves), *leaves[0].shape), np.result_type(*leaves))
    for i, leaf in enumerate(leaves):
        np.stack([leaf], out=stacked[i : i + 1])
        release(leaf)
    return stacked


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an array, not filled, that begins where a CPU device takes it over without a copy."""
    size, boundary = math.prod(shape) * dtype.itemsize, 64
    room = np.empty(size + boundary, np.uint8)
    start = -room.ctypes.data % boundary
    return room[start : start + size].view(dtype).reshape(shape)
