"""Paths in a configuration, as they are saved: absolute, so that a run is used from anywhere."""

import os
from collections.abc import Mapping
from typing import Any

from jax_prompt.data.subset_names import parse_subset
from jax_prompt.data.tasks import ALL
from jax_prompt.weights.fetch import AUTO

# The keys that hold paths.
PATHS = frozenset(('data', 'weights', 'calibrate_data', 'input.data_dir', 'input.image_cache'))
_FOLDER = 'image_folder:'


def absolute(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a config.json with its paths absolute, and `~` as the home folder."""
    made = dict(config)
    for key in PATHS:
        section, _, name = key.rpartition('.')
        values = dict(made.get(section) or {}) if section else made
        if isinstance(values.get(name), str) and values[name]:
            if (name, values[name]) == ('weights', AUTO):
                continue
            make = absolute_data if name in ('data', 'calibrate_data') else absolute_path
            values[name] = make(values[name])
            if section:
                made[section] = values
    return made


def absolute_path(path: str) -> str:
    """Returns a path from the root, `~` expanded; links stay as they are."""
    return os.path.abspath(os.path.expanduser(path))


def absolute_data(data: str) -> str:
    """Returns what `data/open.py` opens with its path absolute; a name of a task stays."""
    subset = parse_subset(data)
    if subset is not None:
        rest = subset[2]
        return data.removesuffix(rest) + absolute_data(rest)
    if data.startswith('tfds:') or any(data in (task.name, task.data) for task in ALL):
        return data
    path = data.removeprefix(_FOLDER)
    if data.startswith(_FOLDER):
        return _FOLDER + absolute_path(path)
    plain = data.startswith(('~', '.')) or os.path.exists(data)
    return absolute_path(data) if plain else data
