"""A run directory belongs to one configuration: taking it, and refusing another's."""

import json
from pathlib import Path
from typing import Any

from jax_prompt.core.json_file import load_object
from jax_prompt.train.config import RunConfig
from jax_prompt.train.distributed import from_primary
from jax_prompt.train.log import write_json

# A run may go on with other devices than it began with, and other checkpoints.
_FREE = ('engine.num_devices', 'engine.fsdp', 'engine.checkpoint_seconds')

# The way out of a damaged result.json.
RESULT_AGAIN = 'remove it and start launch/train.py again: it is made anew from the last checkpoint'


def claim(config: RunConfig, workdir: Path) -> dict[str, Any] | None:
    """Takes a run directory for a configuration; returns its result if it is finished.

    Process 0 of several does it for all.

    Raises:
      ValueError: it holds another configuration's run; names what differs.
    """
    return from_primary(lambda: _claim(config, workdir))


def _claim(config: RunConfig, workdir: Path) -> dict[str, Any] | None:
    path = workdir / 'config.json'
    mine = json.loads(json.dumps(config.to_dict()))
    if path.exists():
        way_out = 'put it back from a copy, or take another --workdir'
        theirs = load_object(path, way_out)
        differs = _differences(theirs, mine)
        if differs:
            raise ValueError(
                f'{workdir} holds a run of another configuration, which differs in '
                f'{"; ".join(differs)}. Take another --workdir, or remove that one'
            )
    elif workdir.exists() and _holds_something(workdir):
        raise ValueError(f'{workdir} is not empty and holds no run; take another --workdir')
    else:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, mine)
    result = workdir / 'result.json'
    return load_object(result, RESULT_AGAIN) if result.exists() else None


def _holds_something(workdir: Path) -> bool:
    """Whether a directory without a configuration holds more than a killed first write of it."""
    names = [path.name for path in workdir.iterdir()]
    return any(not (n.startswith('config.json.') and n.endswith('.part')) for n in names)


def _differences(theirs: Any, mine: Any, prefix: str = '') -> list[str]:
    if isinstance(theirs, dict) and isinstance(mine, dict):
        keys = sorted(theirs.keys() | mine.keys())
        parts = [_differences(theirs.get(k), mine.get(k), f'{prefix}.{k}') for k in keys]
        return [line for part in parts for line in part]
    same = theirs == mine or prefix[1:] in _FREE
    return [] if same else [f'{prefix[1:]}: {theirs!r} there, {mine!r} asked']
