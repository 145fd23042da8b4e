"""The table of results: one row a run, one small file a row. No file is ever changed.

A table is a folder. It holds the rows of all its files. A process writes a row's file under another
name and then renames it. So any number of processes can add rows at once without a lock, on a
network file system too. A process that dies while it writes leaves no row, only a `.part` file;
reading names it. To join several tables, copy their files into one folder, or their `.jsonl`
exports, which have one row a line.

A file's name is the run's identity and a digest of the row. If the same row is added twice, it is
one file. If the same run is added twice with other results, there are two files, and reading keeps
the row that tells more (`latest`).
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from jax_prompt.core.files import whole_file

_NAME = re.compile(r'^[0-9a-f]{16}-([0-9a-f]{12})\.json$')
# What says which run it is; the rest of a row is what came of it.
_ASKED = (
    *('benchmark', 'task', 'data', 'method', 'options', 'backbone', 'weights', 'hyperparameters'),
    *('seed', 'trained_on', 'split'),
)


def label(method: str, options: Mapping[str, Any]) -> str:
    """Names a method with the options in which it differs from its row in the table of methods.

    >>> label('adapter', {'hidden': 8})
    'adapter(hidden=8)'
    """
    inside = ','.join(f'{name}={options[name]}' for name in sorted(options))
    return f'{method}({inside})' if inside else method


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec='seconds')


@dataclass(frozen=True)
class Row:
    """One run's result. Mappings hold JSON values.

    Attributes:
      task: the task's name.
      method: a row of `methods.METHODS`, or several joined by '+'.
      backbone: `arch` or `arch.tag`.
      seed: seed of everything random.
      benchmark: benchmark of the task, 'vtab' for example; '' for none.
      data: fingerprint of the data.
      options: the method's options that differ from its defaults.
      weights: identity of the pretrained weights (`weights.identity.Identity.to_dict`); {} without.
      hyperparameters: all other settings of the run, the grid of a search included.
      trained_on: 'train' or 'train+val'.
      split: split that the accuracies are of, 'test' or 'val'.
      status: 'done' or 'failed'.
      reason: reason of a failure, in words.
      chosen: what the search chose, the learning rate for example.
      accuracy: accuracy after the last epoch, in [0, 1].
      accuracy_best_val: accuracy of the epoch that was best on validation, in [0, 1].
      num_trainable: number of trained parameters, the head's included.
      num_trainable_head: number of trained parameters of the head.
      seconds: time of the whole run.
      images_per_second: speed of training steps.
      peak_memory_mb: peak memory in MB (1e6 bytes).
      versions: versions of Python and of the packages that a number depends on.
      machine: kind and number of the devices, and the system.
      finished: time in UTC, ISO 8601.
    """

    task: str
    method: str
    backbone: str
    seed: int
    benchmark: str = ''
    data: str = ''
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    trained_on: str = 'train+val'
    split: str = 'test'
    status: str = 'done'
    reason: str = ''
    chosen: Mapping[str, Any] = field(default_factory=dict)
    accuracy: float | None = None
    accuracy_best_val: float | None = None
    num_trainable: int | None = None
    num_trainable_head: int | None = None
    seconds: float | None = None
    images_per_second: float | None = None
    peak_memory_mb: float | None = None
    versions: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    finished: str = field(default_factory=_now)

    def __post_init__(self):
        for name in ('options', 'weights', 'hyperparameters', 'chosen', 'versions', 'machine'):
            plain = json.loads(json.dumps(dict(getattr(self, name)), allow_nan=False))
            object.__setattr__(self, name, plain)
        for name, allowed in (
            ('status', ('done', 'failed')),
            ('split', ('test', 'val')),
            ('trained_on', ('train', 'train+val')),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f'{name} is {getattr(self, name)!r}; allowed: {allowed}')
        if not self.task or not self.method or not self.backbone:
            raise ValueError('a row needs a task, a method and a backbone; one of them is empty')
        if self.trained_on == 'train+val' and self.split == 'val':
            raise ValueError('a run trained on train+val has no val accuracy; set split to test')
        if (self.status == 'done') != (self.accuracy is not None):
            raise ValueError(
                f'status is {self.status!r} and accuracy {self.accuracy}; a run that is done has '
                'an accuracy, a failed one has none'
            )
        if (self.status == 'failed') != bool(self.reason):
            raise ValueError(
                f'status is {self.status!r} and reason {self.reason!r}; a failed run has a reason, '
                'one that is done has none'
            )
        for name in ('accuracy', 'accuracy_best_val'):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f'{name} is {value}; allowed: a fraction in [0, 1]')
        for name in ('seconds', 'images_per_second', 'peak_memory_mb'):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f'{name} is {value}; allowed: finite, at least 0')

    @property
    def label(self) -> str:
        """The method with its options."""
        return label(self.method, self.options)

    @property
    def run_id(self) -> str:
        """Identity of the run: a digest of all that was asked for, not of what came of it."""
        asked = {name: getattr(self, name) for name in _ASKED}
        return sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Returns the row as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> 'Row':
        """The inverse of `to_json`.

        Raises:
          ValueError: no JSON object, a field unknown or missing, or a value that a row refuses.
        """
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError(f'a row is a JSON object, not {type(data).__name__}')
        known = {f.name for f in fields(cls)}
        needed = {f.name for f in fields(cls) if f.default is f.default_factory is MISSING}
        if set(data) - known or needed - set(data):
            raise ValueError(
                f'unknown fields {sorted(set(data) - known)}, missing {sorted(needed - set(data))}'
            )
        return cls(**data)


def append(folder: str | Path, row: Row) -> Path:
    """Adds a row to a table; when this returns, the row is on the disk.

    Args:
      folder: the table; made if there is none.
      row: the result.

    Returns:
      The row's file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = row.to_json()
    path = folder / f'{row.run_id}-{sha256(text.encode()).hexdigest()[:12]}.json'
    _write(path, text + '\n')
    return path


def export(path: str | Path, rows: Iterable[Row]) -> None:
    """Writes rows as one file, a line each; such a file in a table's folder is read with it."""
    _write(Path(path), ''.join(row.to_json() + '\n' for row in rows))


def _write(path: Path, text: str) -> None:
    with whole_file(path, durable=True) as file:
        file.write(text.encode())


@dataclass(frozen=True)
class Rows:
    """What was read of a table.

    Attributes:
      rows: one a run.
      superseded: rows of runs that another row tells better.
      problems: what could not be read, each with its file, line and reason.
    """

    rows: tuple[Row, ...]
    superseded: tuple[Row, ...] = ()
    problems: tuple[str, ...] = ()


def read(folder: str | Path) -> Rows:
    """Reads a table. What is torn or foreign is named in `problems` and left out.

    Raises:
      FileNotFoundError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f'{folder} is no folder of results; jax-prompt benchmark --results writes one'
        )
    rows: list[Row] = []
    problems: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.suffix == '.part':
            problems.append(f'{path.name}: unfinished; its writer was killed, or still writes')
        if path.suffix not in ('.json', '.jsonl'):
            continue
        own, wrong = read_file(path)
        rows += own
        problems += wrong
    kept = latest(rows)
    dropped = [row for row in rows if not any(row is one for one in kept)]
    return Rows(tuple(kept), tuple(dropped), tuple(problems))


def table_in(folder: Path) -> Path:
    """Returns the table in what `jax-prompt benchmark --results` wrote, or the folder as it is."""
    inner = folder / 'rows'
    return inner if inner.is_dir() else folder


def read_file(path: Path) -> tuple[list[Row], list[str]]:
    """Reads a file of a table; returns its rows, and what can't be read, by file and line.

    A file of one row has a digest of the row in its name, so one that was altered is told.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # removed by another process just now
        return [], []
    if not data.strip():
        return [], [f'{path.name}: empty']
    named = _NAME.match(path.name)
    if named and data.endswith(b'\n') and sha256(data[:-1]).hexdigest()[:12] != named[1]:
        return [], [f'{path.name}: altered, left out: its name is the digest of another content']
    rows: list[Row] = []
    problems: list[str] = []
    text = data.decode('utf-8', errors='replace')
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        try:
            rows.append(Row.from_json(line))
        except (ValueError, TypeError) as error:
            torn = '' if line.endswith('\n') else 'torn, '
            problems.append(f'{path.name}, line {number}: {torn}left out: {error}')
    return rows, problems


def latest(rows: Iterable[Row]) -> list[Row]:
    """Keeps one row of each run: one that is done before one that failed, then the last finished.

    The accuracy has no say in it. A failure that could not read its data or its weights ('' or {})
    is the same run as one that is done and equal in all else.
    """
    kept: dict[str, Row] = {}
    for row in rows:
        other = kept.get(row.run_id)
        if other is None or _rank(row) > _rank(other):
            kept[row.run_id] = row
    done = [row for row in kept.values() if row.status == 'done']
    return [
        row
        for row in kept.values()
        if row.status == 'done' or not any(_is_retold(row, one) for one in done)
    ]


def _is_retold(failed: Row, done: Row) -> bool:
    pairs = [(name, getattr(failed, name), getattr(done, name)) for name in _ASKED]
    return all(a == b or (name in ('data', 'weights') and not a) for name, a, b in pairs)


def _rank(row: Row) -> tuple[bool, str]:
    return row.status == 'done', row.finished
