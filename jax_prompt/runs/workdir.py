"""A run directory belongs to one configuration and, while something trains in it, to one process.

A directory in which nothing was trained is free: a first command that failed (no weights, a wrong
path) leaves a config.json there, and the next command may ask for something else. While a process
works in a run directory, `held/` in it says who (`core/lease.py`), and another process is refused.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jax_prompt.core.json_file import load_object
from jax_prompt.core.lease import Lease, acquire, read_tenure
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.paths import PATHS, absolute
from jax_prompt.train.job import NonFiniteLoss, Unconverged
from jax_prompt.train.log import read_json, write_json
from jax_prompt.train.processes import from_primary, is_primary

# A run may go on with other devices than it began with, and other checkpoints.
_FREE = ('engine.num_devices', 'engine.fsdp', 'engine.checkpoint_seconds')
# What else changes no result; of a finished run it may differ too.
_FREE_AFTERWARDS = (
    *('engine.eval_batch_size', 'engine.steps_per_call', 'engine.snapshot_every'),
    *('engine.memory_mb', 'input.workers', 'input.budget_mb', 'input.cache_mb'),
    *('input.image_cache', 'model.remat', 'model.scan', 'calibration.budget_mb'),
)
_HELD = 'held'
# What a run writes before anything trains.
_BEFORE = re.compile(
    r'(config\.json|metrics\.jsonl|prototypes(_p_\d+)?\.(npz|safetensors)|split\.json\.gz'
    r'|backbone\.json)(\..*\.part)?'
    r'|search|checkpoints|\.search\..*'
)
# What a run that starts again from its checkpoints would only meet again.
_LASTING = (NonFiniteLoss.__name__, Unconverged.__name__)
_KEYS = {'data', 'backbone', 'method'}  # of a run's config.json
_CONFIG_BACK = 'put it back from a copy, or take another --workdir'

# The way out of a damaged result.json.
RESULT_AGAIN = (
    'remove it and start jax-prompt train again: it is made anew from the last checkpoint'
)


def open_workdir(config: RunConfig, workdir: Path) -> dict[str, Any] | None:
    """Takes a run directory for a configuration; returns its result if it is finished.

    Process 0 of several does it for all.

    Raises:
      ValueError: it holds another configuration's run; names what differs.
    """
    return from_primary(lambda: _open(config, workdir))


def _open(config: RunConfig, workdir: Path) -> dict[str, Any] | None:
    path = workdir / 'config.json'
    mine = absolute(json.loads(json.dumps(config.to_dict())))
    theirs = None
    if path.exists():
        try:
            theirs = load_object(path, _CONFIG_BACK)
        except ValueError:
            if has_trained(workdir) or _foreign(workdir, {}) != ['config.json']:
                raise
            path.unlink()  # torn, and all that is here
    if theirs is not None and has_trained(workdir):
        result = workdir / 'result.json'
        done = load_object(result, RESULT_AGAIN) if result.exists() else None
        differs = _differences(absolute(theirs), mine)
        if done is not None:
            differs = {key: why for key, why in differs.items() if key not in _FREE_AFTERWARDS}
            if differs and set(differs) <= PATHS:
                differs = _other_content(config, done)
        if differs:
            texts = '; '.join(f'{key}: {why}' for key, why in differs.items())
            moved = ', or put a link where the files were' if set(differs) <= PATHS else ''
            raise ValueError(
                f'{workdir} holds a run of another configuration, which differs in {texts}. Take '
                f'another --workdir, or remove that one{moved}'
            )
        return done
    if workdir.is_dir() and (foreign := _foreign(workdir, theirs)):
        raise ValueError(
            f'{workdir} is not empty and holds no run ({foreign[0]}); take another --workdir'
        )
    workdir.mkdir(parents=True, exist_ok=True)
    if theirs is None or absolute(theirs) != mine:
        _clear(workdir)
        write_json(path, mine)
    return None


def settle(config: RunConfig, unit: Lease) -> None:
    """Makes a unit's directory ready: what an earlier attempt left is kept where it can go on."""
    path = unit.directory / 'failed.json'
    try:
        failed = read_json(path, needs=('kind',))
    except ValueError:  # damaged; what it said shows again
        failed = None
    if failed is not None and failed['kind'] in _LASTING:
        unit.clear()
    path.unlink(missing_ok=True)
    if (unit.directory / 'config.json').exists():
        try:
            open_workdir(config, unit.directory)
        except ValueError:  # other settings that change no result: the image cache, the workers
            unit.clear()
    write_json(unit.directory / 'config.json', absolute(config.to_dict()))


def has_trained(workdir: Path) -> bool:
    """Whether something was trained in a run directory: a checkpoint, an epoch, or a result."""
    names = ('result.json', 'chosen.json', 'pruned.json')
    if any((workdir / name).exists() for name in names):
        return True
    metrics = workdir / 'metrics.jsonl'
    if metrics.exists() and metrics.stat().st_size:
        return True
    patterns = ('checkpoints/*', 'pruned/*', 'search/*/*')
    found = (path.name for pattern in patterns for path in workdir.glob(pattern))
    return any(name.isdigit() or name == 'result.json' for name in found)


def _foreign(workdir: Path, config: dict[str, Any] | None) -> list[str]:
    """Names what in a directory without a trained run is not of a run.

    Without a run's configuration only the remains of a first write of it are a run's: whatever else
    lies there is somebody's, and is never removed.
    """
    names = sorted(path.name for path in workdir.iterdir())
    is_runs = config is not None and config.keys() >= _KEYS
    mine = _BEFORE if is_runs else re.compile(r'config\.json\..*\.part')
    around = (_HELD, f'.{_HELD}.', 'traceback.txt', 'heartbeat')
    return [name for name in names if not (name.startswith(around) or mine.fullmatch(name))]


def _clear(workdir: Path) -> None:
    """Removes what a command that trained nothing left behind."""
    for path in workdir.iterdir():
        if not _BEFORE.fullmatch(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _differences(theirs: Any, mine: Any, prefix: str = '') -> dict[str, str]:
    """Returns what differs, by dotted key."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        found: dict[str, str] = {}
        for key in sorted(theirs.keys() | mine.keys()):
            found |= _differences(theirs.get(key), mine.get(key), f'{prefix}.{key}')
        return found
    same = theirs == mine or prefix[1:] in _FREE
    return {} if same else {prefix[1:]: f'{theirs!r} there, {mine!r} asked'}


def _other_content(config: RunConfig, done: dict[str, Any]) -> dict[str, str]:
    """Compares what lies at the paths now with what a finished run was trained on."""
    from jax_prompt.runs.backbone import build_backbone
    from jax_prompt.runs.inputs import open_data

    found = open_data(config, config.data).fingerprint
    if found != done['data_fingerprint']:
        return {'data': f'fingerprint {done["data_fingerprint"]} there, {found} asked'}
    asked = (done['weights'] or {}).get('sha256')
    backbone = build_backbone(config) if asked else None
    if backbone is None or backbone.identity is None:
        return {}
    if backbone.identity.sha256 != asked:
        return {'weights': f'sha256 {asked} there, {backbone.identity.sha256} asked'}
    values = done.get('backbone_sha256') or backbone.content
    if backbone.content != values:
        return {'weights': f'values {values} there, {backbone.content} asked'}
    return {}


@contextmanager
def hold(workdir: Path) -> Iterator[None]:
    """Holds a run directory, so that no other process works in it.

    Process 0 of several holds it for all. A unit of a benchmark is held already.

    Raises:
      ValueError: another process works in it; says which.
    """
    held = from_primary(lambda: None if _is_unit(workdir) else _hold(workdir))
    lease = _holding.pop(held, None) if held and is_primary() else None
    try:
        yield
    finally:
        if lease is not None:
            _let_go(lease)


_holding: dict[str, Lease] = {}  # by directory: what crosses `from_primary` is text alone


def _hold(workdir: Path) -> str | None:
    if (workdir / 'result.json').exists():  # nothing will be written
        _sweep(workdir / _HELD)
        return None
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f'{workdir} is a file; --workdir is the folder of a run')
    workdir.mkdir(parents=True, exist_ok=True)
    unit = workdir / _HELD
    found = read_tenure(unit)
    taken = acquire(unit, found) if found.state in ('new', 'free') else None
    if taken is None:
        found = read_tenure(unit)
        host, _, rest = found.owner.rpartition('-')[0].rpartition('-')
        who = f'process {rest} of {host.rpartition("-")[0] or host}' if rest else 'another process'
        raise ValueError(
            f'{workdir} is in use: {who} works in it (last sign {max(found.age, 0):.0f} s ago). '
            'Wait until it ends, or take another --workdir'
        )
    _holding[str(taken.directory)] = taken
    return str(taken.directory)


def _sweep(unit: Path) -> None:
    """Removes the lease of a process that was killed after it had written the result."""
    with contextlib.suppress(OSError):
        found = read_tenure(unit)
        left = acquire(unit, found) if found.state == 'free' else None
        if left is not None:
            _let_go(left)
        os.rmdir(unit)


def _let_go(lease: Lease) -> None:
    lease.release()
    shutil.rmtree(lease.directory, ignore_errors=True)
    with contextlib.suppress(OSError):  # another process has it already
        os.rmdir(lease.unit)


def _is_unit(workdir: Path) -> bool:
    """Whether a directory is a unit of a benchmark that this process holds (`core/lease.py`)."""
    parts = workdir.name.rsplit('-', 2)
    mine = workdir.name.startswith('run@') and len(parts) == 3 and parts[1] == str(os.getpid())
    return mine and (workdir / 'heartbeat').exists()
