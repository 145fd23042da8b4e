"""Whether a file system renames folders as leases need it (`core/lease.py`).

A lease passes from process to process by the rename of a folder with files in it. Local disks and
NFS do that in one step. A blob store behind a mount has no folders: its mount refuses the rename,
or copies one file after the other. The first is found here. The second is not: one process alone
can't see it (docs/benchmark.md).
"""

import os
from pathlib import Path

from jax_prompt.core.files import temporary_folder


def check_renames(folder: Path) -> None:
    """Checks that a folder can be renamed in `folder`, which is made where it is not there.

    Args:
      folder: where processes will share leases.

    Raises:
      ValueError: it can't, or a rename replaces a folder that holds files.
      OSError: nothing can be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder, '.renames_') as made:
        why = _fault(made)
    if why:
        raise ValueError(
            f'{folder} can not hold the results of a benchmark: {why}. Processes divide the work '
            'by renaming folders; give a folder on a local disk or on NFS (docs/benchmark.md)'
        )


def _fault(made: Path) -> str:
    """Tries two renames in an empty folder; returns what goes wrong, '' for nothing."""
    first, second, taken = (made / name for name in ('first', 'second', 'taken'))
    for one in (first, second):
        one.mkdir()
        (one / 'file').write_text(one.name, encoding='ascii')
    try:
        os.rename(first, taken)
    except OSError as error:
        if not (taken / 'file').exists():  # a network file system may report a step it has done
            return f'a folder can not be renamed there ({error.strerror or error})'
    if first.exists() or (taken / 'file').read_text(encoding='ascii') != 'first':
        return 'a renamed folder is not whole under its new name there'
    try:
        os.rename(second, taken)
    except OSError:
        return ''
    return 'a folder takes the name of another one that holds files there'
