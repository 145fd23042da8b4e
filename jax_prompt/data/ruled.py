"""A row of a table to its data: the one place that acts on a `Rule`."""

from functools import partial
from pathlib import Path

import numpy as np

from jax_prompt.data.draws import draw_percent
from jax_prompt.data.label_cache import cached_labels
from jax_prompt.data.source import Source, Split, concatenate, make_source, select
from jax_prompt.data.task import Rule, Task
from jax_prompt.data.tfds_source import Prepared, open_prepared


def open_ruled(task: Task, data_dir: str | None) -> Source:
    """Opens a task with a rule; its builder must be prepared as array_record.

    Only the labels that the task needs are read: those of its 800 training images, not of all that
    are stored.

    Raises:
      ValueError: not prepared, or what is there does not fit the rule.
    """
    rule = task.rule
    if rule is None or not task.data.startswith('tfds:'):
        raise ValueError(f'task {task.name} has no rule for TFDS data; open {task.data!r}')
    prepared = open_prepared(task.data.removeprefix('tfds:'), data_dir)
    names = _class_names(prepared, rule)
    chosen = rule.classes or names
    splits = {
        name: _joined(prepared, rule, name, names, chosen, parts)
        for name, parts in rule.parts().items()
    }
    if not rule.val:
        splits['train'], splits['val'] = _draw_val(splits['train'], rule)
    if len(chosen) != task.num_classes:
        raise ValueError(
            f'{prepared.name} gives {len(chosen)} classes; task {task.name} has {task.num_classes}'
        )
    # The stored order, and with it the version in the name, says which images these are.
    identity = [prepared.name, rule.label.name, rule.scale, rule.image, *map(repr, _places(rule))]
    return make_source(task.name, chosen, splits, identity, all_classes=False)


def _class_names(prepared: Prepared, rule: Rule) -> tuple[str, ...]:
    if rule.label.classes:
        return rule.label.classes
    feature = dict(prepared.builder.info.features.items()).get(rule.label.keys[0])
    names = tuple(getattr(feature, 'names', ()))
    if not names:
        raise ValueError(f'{prepared.name}: {rule.label.keys[0]!r} is no class label')
    missing = [one for one in rule.classes if one not in names]
    if missing:
        raise ValueError(f'{prepared.name} lacks the classes {missing[:10]}')
    return names


def _joined(
    prepared: Prepared,
    rule: Rule,
    name: str,
    names: tuple[str, ...],
    chosen: tuple[str, ...],
    parts: tuple,
) -> Split:
    """Returns the examples of some parts, of the chosen classes alone."""
    read = []
    for part in parts:
        try:
            span = part.span(prepared.num_examples)
        except ValueError as error:
            raise ValueError(f'{prepared.name}: {error}') from error
        labels = cached_labels(
            Path(prepared.builder.data_dir),
            f'{part.split} {span} {rule.label.name}',
            len(span),
            partial(prepared.read_labels, part.split, span, rule.label),
        )
        read.append(prepared.read_split(part.split, span, rule.image, labels))
    split = concatenate(name, read)
    if chosen != names:
        index = np.flatnonzero(np.isin(split.labels, [names.index(one) for one in chosen]))
        place = np.array([chosen.index(one) if one in chosen else -1 for one in names], np.int32)
        split = select(name, split, index)
        split = Split(name, place[split.labels], split.read, split.where)
    if rule.scale != 1:
        split = Split(name, split.labels, partial(_scaled, split, rule.scale), split.where)
    return split


def _scaled(split: Split, scale: int, i: int) -> np.ndarray:
    return split.read(i) * np.uint8(scale)


def _draw_val(train: Split, rule: Rule) -> tuple[Split, Split]:
    """Cuts a stratified share off train: (train, val)."""
    kept, taken = draw_percent(train.labels, rule.val_percent, rule.val_seed)
    return select('train', train, kept), select('val', train, taken)


def _places(rule: Rule) -> list:
    """Returns what says which stored examples a rule takes."""
    drawn = () if rule.val else (rule.val_percent, rule.val_seed)
    return [rule.parts(), drawn]
