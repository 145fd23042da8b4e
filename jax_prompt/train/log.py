"""What a run says: lines of metrics.jsonl, and progress on the terminal."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax_prompt.core.files import whole_file
from jax_prompt.train.distributed import from_primary, is_primary


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """Appends a row to metrics.jsonl, whole or not at all; process 0 of several does it."""
    if not is_primary():
        return
    with open(path, 'a', encoding='utf-8') as file:
        file.write(json.dumps(row) + '\n')
        file.flush()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of metrics.jsonl; a last line that a kill cut short is left out."""
    if not Path(path).exists():
        return []
    rows = []
    for line in Path(path).read_text(encoding='utf-8').splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


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


def read_json(path: Path) -> Any:
    """Returns the value of a JSON file, None where there is none; process 0 reads it for all."""
    return from_primary(
        lambda: json.loads(path.read_text(encoding='utf-8')) if path.exists() else None
    )


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
        whole = (self.total - self.done + self.after) / max(rate, 1e-9)
        then = f', {duration(whole)} with all that follows' if self.after else ''
        if self.bar is not None:
            self.bar.set_postfix_str(text + then)
            return
        left = (self.total - self.done) / max(rate, 1e-9)
        print(f'{self.name}: {text}, {rate:.0f} images/s, {duration(left)} left{then}', flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self.bar is not None:
            self.bar.close()
