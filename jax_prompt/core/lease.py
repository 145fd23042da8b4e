"""Who works on a unit: processes that share a folder, without a lock.

A unit is a folder, and in it one directory that moves from name to name:

    run@HOST-KEY-PID-RANDOM   that process works on it
    run                       done
    failed                    ended without a result

The directory is the lease. Its owner writes in it and nowhere else. A process takes it over by
renaming it to a name with its own key. If several processes try at once, the file system lets
exactly one rename succeed, and the others see an error. This holds on network file systems too. (A
lock file has no such step: a process finds it stale, but before the process can remove it, another
one may have taken it.) The unit's folder appears by a rename too, with the directory in it.

The owner touches a file in its directory every few seconds. A directory is free when its process is
known to be gone (its own machine says so), or when it has been silent for `DEAD_SECONDS`, by the
file system's clock. If somebody removed the file, the time of the directory itself counts. A
process may be only slow when another one takes its directory. The old path is then gone, so its
next write fails, and it learns that it lost the unit. So a unit may be worked on twice, but it is
never lost, and two processes never finish the same directory.
"""

import contextlib
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from jax_prompt.core.files import remove_left
from jax_prompt.core.owner import is_gone, new_owner

BEAT_SECONDS = 5.0
DEAD_SECONDS = 120.0  # more than what a network file system may keep old times for
_BEAT = 'heartbeat'
_MARK = 'run@'


class Tenure(NamedTuple):
    """How a unit was found.

    Attributes:
      state: 'new', 'busy', 'free' (its process is gone), 'done' or 'failed'.
      path: its directory; None of a new one.
      age: seconds since the owner's last sign, where it has one.
    """

    state: str
    path: Path | None = None
    age: float = 0.0

    @property
    def owner(self) -> str:
        """The process that works on it; '' for none."""
        return self.path.name.removeprefix(_MARK) if self.path and _MARK in self.path.name else ''


def read_tenure(unit: Path, dead_seconds: float = DEAD_SECONDS) -> Tenure:
    """Returns how a unit is found. A sign that is dated in the future is dated anew.

    Args:
      unit: its folder.
      dead_seconds: silence after which its process is taken for gone.
    """
    # Between two names it is seen under neither; so a directory without the file counts last, after
    # a second look: it may be what a former owner's last write left behind.
    for sign in (_BEAT, _BEAT, '.'):
        try:
            names = sorted(os.listdir(unit))
        except FileNotFoundError:
            return Tenure('new')
        if not names:
            return Tenure('new')
        for name, state in (('run', 'done'), ('failed', 'failed')):
            if name in names:
                return Tenure(state, unit / name)
        for name in (name for name in names if name.startswith(_MARK)):
            with contextlib.suppress(FileNotFoundError):
                age = _silence(unit / name / sign, _now(unit.parent), dead_seconds)
                state = 'free' if _gone(name, age, dead_seconds) else 'busy'
                return Tenure(state, unit / name, age)
    return Tenure('busy')


def _silence(sign: Path, now: float, dead_seconds: float) -> float:
    """Returns the seconds since a sign of life. One that is dated in the future is dated anew."""
    age = now - sign.stat().st_mtime
    if age < -dead_seconds:
        # A clock was wrong. Counted from now, a dead owner's sign grows old as any other; a living
        # owner gives the next sign in seconds.
        with contextlib.suppress(OSError):
            os.utime(sign)
            age = 0.0
    return age


class Lease:
    """A unit that this process works on, in `directory`, until `finish` or `release`.

    Args:
      unit: its folder.
      directory: this process's own name in it.
      beat_seconds: time between signs.
    """

    def __init__(self, unit: Path, directory: Path, beat_seconds: float = BEAT_SECONDS):
        self.unit, self.directory = unit, directory
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(beat_seconds,), daemon=True)
        self._thread.start()

    def _beat(self, seconds: float) -> None:
        while not self._stopped.wait(seconds):
            try:
                os.utime(self.directory / _BEAT)
            except FileNotFoundError:
                return
            except OSError:  # of a network; the next sign may come through
                continue

    def held(self) -> bool:
        """Whether the unit is still this process's."""
        return (self.directory / _BEAT).exists()

    def clear(self) -> None:
        """Removes all that the directory holds of earlier attempts."""
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _BEAT:
                path.unlink()

    def finish(self, name: str) -> bool:
        """Gives the directory its last name, 'run' or 'failed'; False if it is another's now."""
        self._stop()
        if self.held():
            with contextlib.suppress(OSError):
                os.rename(self.directory, self.unit / name)
                return True
        self.release()
        return False

    def release(self) -> None:
        """Leaves the unit, as it is, to the next process."""
        self._stop()
        try:
            os.utime(self.directory / _BEAT, (0, 0))
        except FileNotFoundError:  # taken; what is left under the old name is nobody's
            shutil.rmtree(self.directory, ignore_errors=True)

    def _stop(self) -> None:
        self._stopped.set()
        self._thread.join()


def acquire(unit: Path, found: Tenure, beat_seconds: float = BEAT_SECONDS) -> Lease | None:
    """Takes a unit that was found new, free or failed; None where another process was faster.

    What a former owner left in the directory is there, whole.
    """
    owner = new_owner()
    mine = unit / f'{_MARK}{owner}'
    made = unit.with_name(f'.{unit.name}.{owner}')
    try:
        if found.path is None:
            remove_left(unit.parent, f'.{unit.name}.', '')
            (made / mine.name).mkdir(parents=True)
            (made / mine.name / _BEAT).touch()
            os.rename(made, unit)  # fails where there is one with something in it
        else:
            (found.path / _BEAT).touch()
            os.rename(found.path, mine)
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        if not mine.is_dir():  # a network file system may report a step that it has done
            return None
    return Lease(unit, mine, beat_seconds)


def _gone(name: str, age: float, dead_seconds: float) -> bool:
    if age > dead_seconds:
        return True
    return is_gone(name.removeprefix(_MARK))


def _now(folder: Path) -> float:
    """Returns the time by the clock of a folder's file system, as times of files are."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b'.')
        file.flush()
        return os.fstat(file.fileno()).st_mtime
