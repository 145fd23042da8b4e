"""Results told again: what a benchmark's table lost comes back from the run directories.

A unit's directory holds all that its row says, so a row that is missing, empty, torn or altered is
no loss. What a directory itself should hold, and does not, makes its unit one that is to do again.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jax_prompt.report import rows
from jax_prompt.report.collect import from_workdir
from jax_prompt.report.rows import Row
from jax_prompt.runs.config import RunConfig
from jax_prompt.train.log import read_json
from jax_prompt.train.optim import Hyper


def chosen_of(directory: Path, config: RunConfig) -> dict[str, Any] | None:
    """Returns what a search chose.

    Args:
      directory: the search's run directory.
      config: the search's settings.

    Returns:
      Values of fields of `config`. None where chosen.json is missing or damaged, or names values
      that were not among the candidates.
    """
    try:
        saved = read_json(directory / 'chosen.json')
        hyper, prompts = config.candidates[saved['name']]
        values = {name: saved[name] for name in Hyper._fields}
        wanted = {name: float(value) for name, value in hyper._asdict().items()}
        if 'num_prompts' in saved:
            values['num_prompts'], wanted['num_prompts'] = saved['num_prompts'], prompts
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return values if values == wanted else None


def row_of(
    directory: Path, task: str, benchmark: str, hyperparameters: Mapping[str, Any]
) -> Row | None:
    """Returns the row of a run directory that is done; None where its result can't be read.

    Args:
      directory: the run directory.
      task: the task's name.
      benchmark: the benchmark's.
      hyperparameters: what was asked for, as the row is to say it.
    """
    try:
        row = from_workdir(directory, task, benchmark)
        return replace(row, hyperparameters=hyperparameters)
    except (OSError, ValueError, TypeError, LookupError):
        return None


class Told:
    """Which runs a table tells of.

    Args:
      folder: the table.
    """

    def __init__(self, folder: Path):
        self.folder, self.known = folder, set[str]()

    def tells(self, row: Row) -> bool:
        """Whether the table has a row of this run. A failed one may name weights or data or not."""
        if _name(row) not in self.known:
            self._read()  # others may have added it
        return _name(row) in self.known

    def add(self, row: Row) -> None:
        """Tells a row, in the place of what is left of it."""
        path = rows.append(self.folder, row)
        for other in self.folder.glob(f'{row.run_id}-*.json'):
            if other != path and rows.read_file(other)[1]:
                other.unlink(missing_ok=True)
        self.known.add(_name(row))

    def _read(self) -> None:
        if self.folder.is_dir():
            table = rows.read(self.folder)
            self.known = {_name(row) for row in (*table.rows, *table.superseded)}


def _name(row: Row) -> str:
    if row.status == 'done':
        return f'done {row.run_id} {row.accuracy}'
    return f'failed {replace(row, weights={}, data="").run_id}'
