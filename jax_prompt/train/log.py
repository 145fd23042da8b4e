"""What a run says: lines of metrics.jsonl, and progress on the terminal."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any

from jax_prompt.core.files import whole_file
from jax_prompt.core.json_file import load_object
from jax_prompt.train.processes import from_primary, is_primary

_LOG = logging.getLogger(__name__)
_ROW = {'kind', 'stage', 'epoch'}  # what every row of metrics.jsonl has
WAY_OUT = 'remove it and start again; it is written anew'


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """Appends a row to metrics.jsonl, whole or not at all; process 0 of several does it."""
    if not is_primary():
        return
    with open(path, 'ab+') as file:
        torn = file.tell() > 0 and not _ends_a_line(file)
        file.write((('\n' if torn else '') + json.dumps(row) + '\n').encode())
        file.flush()


def _ends_a_line(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b'\n'


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of metrics.jsonl.

    A damaged line is left out and named; the lines after it are read. A last line that a kill cut
    short is left out without a word.
    """
    if not Path(path).exists():
        return []
    *lines, rest = Path(path).read_bytes().split(b'\n')
    rows, damaged = [], []
    for number, line in enumerate([*lines, rest] if rest else lines, 1):
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif number <= len(lines):
            damaged.append(number)
    if damaged:
        shown = ', '.join(map(str, damaged[:5])) + (', ...' if len(damaged) > 5 else '')
        _LOG.warning('%s: damaged and left out: line %s', path, shown)
    return rows


def _row(line: bytes) -> dict[str, Any] | None:
    """Returns the row of a line; None where it holds none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and row.keys() >= _ROW else None


def rewrite_metrics(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Keeps the rows that `keep` accepts; the file is replaced in one move."""
    if Path(path).exists():
        rows = [row for row in read_metrics(path) if keep(row)]
        write_text(path, ''.join(json.dumps(row) + '\n' for row in rows))


def write_text(path: Path, text: str) -> None:
    """Writes a file in one move: a reader sees the old text or the new, never a part.

    Process 0 of several does it.
    """
    if is_primary():
        with whole_file(path) as file:
            file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON in one move."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + '\n')


def read_json(path: Path, way_out: str = WAY_OUT, needs: Collection[str] = ()) -> Any:
    """Returns the object of a JSON file, None where there is none; process 0 reads it for all.

    Args:
      path: the file.
      way_out: what the reader of an error can do.
      needs: names that the object must have.

    Raises:
      ValueError: it is damaged or lacks a name; says which file.
    """
    return from_primary(lambda: load_object(path, way_out, needs) if path.exists() else None)


def duration(seconds: float) -> str:
    """Returns a time as '40 s', '12 min' or '3.5 h'.

    >>> [duration(seconds) for seconds in (-2, 40, 700, 12_600)]
    ['0 s', '40 s', '12 min', '3.5 h']
    """
    seconds = max(seconds, 0.0)
    if seconds < 120:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 7200 else f'{seconds / 3600:.1f} h'


class Progress:
    """A bar with images/s and time left on a terminal; a plain line an epoch elsewhere.

    Args:
      name: what is in progress.
      total: images in all.
      quiet: print nothing.
      after: images that the run trains on once this is done.
    """

    def __init__(self, name: str, total: int, quiet: bool = False, after: int = 0):
        self.name, self.total, self.quiet, self.after = name, total, quiet, after
        self.bar: Any = None
        self.done, self.begun, self.started, self.said = 0, 0, time.perf_counter(), 0.0

    def start(self, done: int) -> None:
        """Starts counting, with `done` images already behind."""
        self.done = self.begun = done
        self.started = time.perf_counter()
        if sys.stderr.isatty() and not self.quiet:
            from tqdm import tqdm

            self.bar = tqdm(total=self.total, initial=done, unit='img', desc=self.name)

    def update(self, images: int) -> None:
        """Counts images."""
        self.done += images
        if self.bar is not None:
            self.bar.update(images)

    def note(self, text: str) -> None:
        """Says a line: beside the bar, or with rate and time left where there is none.

        Lines come at most once a second, but for the last.
        """
        now = time.perf_counter()
        if self.quiet or (now - self.said < 1.0 and self.done < self.total):
            return
        self.said = now
        rate = (self.done - self.begun) / max(time.perf_counter() - self.started, 1e-9)
        whole = (max(self.total - self.done, 0) + self.after) / max(rate, 1e-9)
        then = f', {duration(whole)} with all that follows' if self.after else ''
        if self.bar is not None:
            self.bar.set_postfix_str(text + then)
            return
        left = max(self.total - self.done, 0) / max(rate, 1e-9)
        print(f'{self.name}: {text}, {rate:.0f} images/s, {duration(left)} left{then}', flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self.bar is not None:
            self.bar.close()
