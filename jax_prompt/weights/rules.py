"""Renaming rules as data, applied strictly.

A `Table` says how one source names its weights: regular expressions with the path and the
transform of each leaf, what is skipped and why, and what is refused. `match_names` sorts a file's
names by them; `apply` gives the whole tree, or one error with every unused, missing and misshapen
name: a checkpoint that loads in part is worse than one that does not load.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

Transform = Callable[[np.ndarray], np.ndarray]
Shape = tuple[int | None, ...]


def same(x: np.ndarray) -> np.ndarray:
    """Returns the array as it is."""
    return x


def transpose(x: np.ndarray) -> np.ndarray:
    """A torch linear weight [out, in] as a kernel [in, out]."""
    return x.T


def conv_kernel(x: np.ndarray) -> np.ndarray:
    """A torch convolution weight [out, in, h, w] as a kernel [h, w, in, out]."""
    return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x


def merge_last(x: np.ndarray) -> np.ndarray:
    """Joins the last two axes: [D, H, D/H] to [D, D], [H, D/H] to [D]."""
    return x.reshape(*x.shape[:-2], -1) if x.ndim >= 2 else x


def merge_first(x: np.ndarray) -> np.ndarray:
    """Joins the first two axes: [H, D/H, D] to [D, D]."""
    return x.reshape(-1, *x.shape[2:]) if x.ndim >= 2 else x


def row(x: np.ndarray) -> np.ndarray:
    """[D] or [R, D] as [1, R, D]."""
    return x.reshape(1, -1, x.shape[-1]) if x.ndim else x


@dataclass(frozen=True)
class Rule:
    """How one kind of leaf is named.

    Attributes:
      pattern: regular expression for the whole source name; a group `layer` is the layer's number,
        in its stage where there is a group `stage`, the number of a stage.
      path: path in the tree; `{layer}` becomes the layer's number in the whole network, `{start}`
        and `{stop}` those of the first layer of the stage and of the layer after it, zero-padded.
      transform: from the source's layout to the tree's; must only rearrange.
      part: (index, parts) where the leaf is one of several that are joined along the last axis.
    """

    pattern: str
    path: str
    transform: Transform = same
    part: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class Table:
    """How one source names its weights.

    Attributes:
      name: the format's name.
      anchor: a name that every such file has, after the prefix.
      prefixes: what may stand before every name; the first under which the anchor exists is taken.
      rules: the leaves.
      skips: {pattern: reason} for what is left out on purpose; tried on names without the prefix
        and on whole names.
      refusals: {pattern: what the file is} for what a plain network of the family has not.
      family: what such a file holds, for errors.
      signs: sets of patterns; a file in which each pattern of a set occurs is of this format.
      containers: containers that speak for this format.
      absent: patterns for names that speak against this format.
    """

    name: str
    anchor: str
    prefixes: tuple[str, ...]
    rules: tuple[Rule, ...]
    skips: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)
    signs: tuple[tuple[str, ...], ...] = ()
    containers: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    family: str = 'ViT'

    def prefix(self, names: Collection[str]) -> str | None:
        """Returns the prefix of a file with these names, None if it is of another format."""
        return next((p for p in self.prefixes if p + self.anchor in names), None)

    def shows(self, names: Collection[str], containers: Collection[str]) -> bool:
        """Returns whether names or containers speak for this format in particular."""
        if any(_occurs(pattern, names) for pattern in self.absent):
            return False
        signed = any(all(_occurs(p, names) for p in patterns) for patterns in self.signs)
        return signed or any(container in self.containers for container in containers)


@dataclass
class Matched:
    """A file's names, sorted by a table.

    Attributes:
      table: the table.
      plan: {path: {part: (source name, rule)}}.
      skipped: {source name: reason}.
      unused: what no rule knows, with the reason.
    """

    table: Table
    plan: dict[str, dict[int, tuple[str, Rule]]]
    skipped: dict[str, str]
    unused: list[str]

    def shapes(self, tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
        """Returns {path: shape} that the file would give, parts joined."""
        shapes = {}
        for path, parts in self.plan.items():
            name, rule = next(iter(parts.values()))
            shape = rule.transform(tensors[name]).shape
            shapes[path] = (*shape[:-1], shape[-1] * rule.part[1]) if shape else shape
        return shapes


@dataclass
class Applied:
    """What `apply` gives.

    Attributes:
      flat: {path: array}, float32; what only had to be rearranged is a view of the file's array.
      used: {source name: path}.
      skipped: {source name: reason}.
    """

    flat: dict[str, np.ndarray]
    used: dict[str, str]
    skipped: dict[str, str]


def match_names(table: Table, tensors: Mapping[str, np.ndarray], source: str) -> Matched:
    """Sorts a file's names by a table.

    Raises:
      ValueError: a name shows that the file is something else than a plain network of the family.
    """
    prefix = table.prefix(tensors) or ''
    counts = _layers_of_stages(table, [name.removeprefix(prefix) for name in tensors])
    matched = Matched(table, {}, {}, [])
    for name, tensor in tensors.items():
        bare = name.removeprefix(prefix)
        refusal = _find(table.refusals, bare)
        if refusal is not None:
            raise ValueError(
                f"{source}: '{name}' makes it {refusal}, which is not supported; give the weights "
                f'of a plain {table.family}'
            )
        found = _match(table, bare, counts) if name.startswith(prefix) else None
        reason = _find(table.skips, bare) or _find(table.skips, name)
        if found is None and reason is not None:
            matched.skipped[name] = reason
        elif found is None:
            matched.unused.append(f'{name} {list(tensor.shape)}')
        elif found[0].part[0] in matched.plan.setdefault(found[1], {}):
            matched.unused.append(f'{name}: another name has filled {found[1]}')
        else:
            matched.plan[found[1]][found[0].part[0]] = (name, found[0])
    return matched


def apply(
    matched: Matched,
    tensors: dict[str, np.ndarray],
    shapes: Mapping[str, Shape],
    source: str,
) -> Applied:
    """Rearranges a file's tensors into the leaves that `shapes` lists.

    Args:
      matched: the file's names, sorted.
      tensors: {name: array}; emptied as leaves are made, so that no leaf is held twice.
      shapes: {path: shape} of every leaf wanted; None stands for any size.
      source: the file, for errors.

    Returns:
      The leaves in float32 with what was used and skipped.

    Raises:
      ValueError: lists every name that is unused, missing or misshapen.
    """
    problems = [f'unused: {text}' for text in matched.unused]
    for path, parts in matched.plan.items():
        if path not in shapes:
            names = ', '.join(name for name, _ in parts.values())
            problems.append(f'unused: {names}: the architecture has no {path}')
    for path, shape in shapes.items():
        problems += _check_leaf(path, shape, matched.plan.get(path, {}), tensors)
    if problems:
        more = f'\n  ... and {len(problems) - 80} more' if len(problems) > 80 else ''
        raise ValueError(
            f'{source} (format {matched.table.name}) does not fit in {len(problems)} places:\n  '
            + '\n  '.join(problems[:80])
            + f'{more}\nGive the architecture that the file was made for, or its format.'
        )
    for name in matched.skipped:
        tensors.pop(name)
    flat, used = {}, {}
    for path, parts in matched.plan.items():
        leaves = []
        for index in sorted(parts):
            name, rule = parts[index]
            leaves.append(rule.transform(tensors.pop(name)))
            used[name] = path
        flat[path] = _float32(leaves)
    return Applied(flat, used, matched.skipped)


def _check_leaf(
    path: str,
    shape: Shape,
    parts: Mapping[int, tuple[str, Rule]],
    tensors: Mapping[str, np.ndarray],
) -> list[str]:
    """Returns what is missing or misshapen of one leaf."""
    count = next((rule.part[1] for _, rule in parts.values()), 1)
    problems = []
    for index in range(count):
        which = f' (part {index + 1} of {count})' if count > 1 else ''
        if index not in parts:
            problems.append(f'missing: {path}{which} {_text(shape)}')
            continue
        name, rule = parts[index]
        last = shape[-1] if shape[-1] is None else shape[-1] // count
        wanted = (*shape[:-1], last)
        raw = tensors[name]
        got = rule.transform(raw).shape
        fits = len(got) == len(wanted) and all(
            w in (None, g) for g, w in zip(got, wanted, strict=True)
        )
        if not fits:
            problems.append(
                f'misshapen: {name} {list(raw.shape)}: as {path}{which} it is {list(got)}, the '
                f'architecture needs {_text(wanted)}'
            )
        elif not np.issubdtype(raw.dtype, np.floating) and raw.dtype.name != 'bfloat16':
            problems.append(f'misshapen: {name} holds {raw.dtype}, weights are floating-point')
    return problems


def layer_of(path: str) -> int | None:
    """Returns the number of the block that a path lies in; None where it lies in none."""
    match = re.match(r'block_(\d+)/', path)
    return int(match[1]) if match else None


def _match(table: Table, bare: str, counts: Mapping[int, int]) -> tuple[Rule, str] | None:
    for rule in table.rules:
        match = re.fullmatch(rule.pattern, bare)
        if match:
            groups = match.groupdict()
            stage = int(groups.get('stage') or 0)
            start = sum(count for number, count in counts.items() if number < stage)
            if 'layer' in groups:
                groups['layer'] = f'{start + int(groups["layer"]):02d}'
            stop = start + counts.get(stage, 0)
            return rule, rule.path.format(start=f'{start:02d}', stop=f'{stop:02d}', **groups)
    return None


def _layers_of_stages(table: Table, names: Collection[str]) -> dict[int, int]:
    """Returns {number of a stage: its layers}, {} where layers are numbered through."""
    counts: dict[int, int] = {}
    for rule in table.rules:
        if '(?P<stage>' in rule.pattern and '(?P<layer>' in rule.pattern:
            for match in filter(None, (re.fullmatch(rule.pattern, name) for name in names)):
                stage, layer = int(match.group('stage')), int(match.group('layer'))
                counts[stage] = max(counts.get(stage, 0), layer + 1)
    return counts


def _find(texts: Mapping[str, str], name: str) -> str | None:
    return next((text for pattern, text in texts.items() if re.fullmatch(pattern, name)), None)


def _occurs(pattern: str, names: Collection[str]) -> bool:
    return any(re.fullmatch(pattern, name) for name in names)


def _text(shape: Shape) -> str:
    return '[' + ', '.join('any' if n is None else str(n) for n in shape) + ']'


def _float32(parts: list[np.ndarray]) -> np.ndarray:
    """Joins parts along the last axis in float32; a single part that is float32 is not copied."""
    if len(parts) == 1 and parts[0].dtype == np.float32:
        return parts[0]
    width = sum(part.shape[-1] for part in parts)
    out = np.empty((*parts[0].shape[:-1], width), np.float32)
    start = 0
    for part in parts:
        out[..., start : start + part.shape[-1]] = part
        start += part.shape[-1]
    return out
