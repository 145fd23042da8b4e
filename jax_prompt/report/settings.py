"""Compares the settings of runs: of the seeds in one cell, and of the tasks in one mean."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jax_prompt.core.grids import edges
from jax_prompt.report.rows import Row

_BESIDE = ('trained_on', 'data', 'weights', 'benchmark')  # settings outside `hyperparameters`
_PLAIN = {'data': 'data (other images or another split)'}


def settings_of(row: Row) -> dict[str, Any]:
    """Returns all settings of a run by dotted name, 'optim.warmup_epochs' for example.

    The task, the method, its options, the backbone and the seed are not among them: they say which
    cell of a report the run belongs to.
    """
    found: dict[str, Any] = {}
    _flatten(row.hyperparameters, '', found)
    _flatten({name: getattr(row, name) for name in _BESIDE}, '', found)
    return found


def _flatten(values: Mapping[str, Any], prefix: str, found: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            _flatten(value, f'{prefix}{name}.', found)
        else:
            found[prefix + name] = value


def differing(rows: Iterable[Row], *, besides: Sequence[str] = ()) -> tuple[str, ...]:
    """Names the settings in which runs differ, in alphabetical order.

    Args:
      rows: the runs.
      besides: settings that may differ.

    Returns:
      Dotted names; () where all runs have the same settings.
    """
    settings = [settings_of(row) for row in rows]
    names = sorted({name for one in settings for name in one} - set(besides))
    return tuple(name for name in names if len({json.dumps(one.get(name)) for one in settings}) > 1)


def in_words(names: Iterable[str]) -> str:
    """Joins names of settings, and explains those that a reader can't look up."""
    return ', '.join(_PLAIN.get(name, name) for name in names)


def by_settings(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Groups runs by the settings in which they differ.

    Returns:
      The runs of each combination under its values, 'epochs 10, optim.clip None' for example.
    """
    names = differing(rows)
    found: dict[str, list[Row]] = {}
    for row in rows:
        settings = settings_of(row)
        text = ', '.join(f'{name} {settings.get(name)}' for name in names)
        found.setdefault(text, []).append(row)
    return found


def edges_of(found: Mapping[str, Sequence[Row]]) -> dict[str, tuple[str, ...]]:
    """Returns what searches chose at an end of their grid, 'highest lr' for example, by tasks.

    Args:
      found: the runs of each task.
    """
    told: dict[str, dict[str, None]] = {}
    for task, rows in found.items():
        for row in rows:
            asked = row.hyperparameters
            decays = asked.get('search_weight_decays', ())
            grids = {
                'lr': asked.get('search_lrs', ()),
                'weight_decay': decays,
                'head_weight_decay': asked.get('search_head_weight_decays') or decays,
            }
            for name, edge in (edges(row.chosen, grids) if asked.get('search') else {}).items():
                told.setdefault(f'{edge} {name}', {})[task] = None
    return {name: tuple(tasks) for name, tasks in told.items()}
