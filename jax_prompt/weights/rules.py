"""Renaming rules as data, applied strictly.

A `NameTable` (`weights/tables.py`) says how one source names its weights: regular expressions with
the path and the transform of each leaf, what is skipped and why, and what is refused. `match_names`
sorts a file's names by them; `apply` gives the whole tree, or one error with every unused, missing
and misshapen name: a checkpoint that loads in part is worse than one that does not load.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from jax_prompt.core.mapped import release
from jax_prompt.weights.tables import NameRule, NameTable, Refusal, Shape


@dataclass
class Matched:
    """A file's names, sorted by a table.

    Attributes:
      table: the table.
      plan: {path: {part: (source name, rule)}}.
      skipped: {source name: reason}.
      unused: what no rule knows, with the reason.
    """

    table: NameTable
    plan: dict[str, dict[int, tuple[str, NameRule]]]
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


def match_names(table: NameTable, tensors: Mapping[str, np.ndarray], source: str) -> Matched:
    """Sorts a file's names by a table.

    Raises:
      ValueError: a name shows that the file is something else than a plain network of the family.
    """
    prefix = table.prefix(tensors) or ''
    bares = [name.removeprefix(prefix) for name in tensors]
    refuse(table.refusals, bares, source, f'a plain {table.family}')
    counts = _layers_of_stages(table, bares)
    matched = Matched(table, {}, {}, [])
    for name, tensor in tensors.items():
        bare = name.removeprefix(prefix)
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


def refuse(refusals: Collection[Refusal], names: Collection[str], source: str, wanted: str) -> None:
    """Refuses a file of a network that is not supported.

    Raises:
      ValueError: says what the file is, and by which name it is known.
    """
    for refusal in refusals:
        name = refusal.found(names)
        if name is not None:
            raise ValueError(
                f"{source}: '{name}' makes it {refusal.what}, which is not supported; give the "
                f'weights of {wanted}'
            )


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
      ValueError: lists every name that is unused, missing or misshapen; or names a leaf that holds
        a value that is not finite.
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
        _check_finite(path, flat[path], [name for name, _ in parts.values()], source)
    return Applied(flat, used, matched.skipped)


def _check_finite(path: str, leaf: np.ndarray, names: list[str], source: str) -> None:
    """Refuses a leaf with NaN or infinity: training would fail later, and blame something else."""
    # Both ends are NaN where any value is; no array of the leaf's size is made for it.
    if leaf.size and not (np.isfinite(leaf.min()) and np.isfinite(leaf.max())):
        count = int(leaf.size - np.isfinite(leaf).sum())
        raise ValueError(
            f'{source}: {" and ".join(names)} ({path}) holds {count} values that are NaN or '
            'infinite in float32; the file is damaged or its training diverged: give another file'
        )
    release(leaf)


def _check_leaf(
    path: str,
    shape: Shape,
    parts: Mapping[int, tuple[str, NameRule]],
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


def _match(table: NameTable, bare: str, counts: Mapping[int, int]) -> tuple[NameRule, str] | None:
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


def _layers_of_stages(table: NameTable, names: Collection[str]) -> dict[int, int]:
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
        with np.errstate(over='ignore'):  # float64 beyond float32's range; `_check_finite` names it
            out[..., start : start + part.shape[-1]] = part
        start += part.shape[-1]
    return out
