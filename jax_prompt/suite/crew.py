"""Several processes of one benchmark on one machine, each with its own GPU or its own cores.

They divide the units as processes of several machines do (`worker.py`). The process that starts
them computes nothing. It prints what they say and how far all are, and it ends them when it ends.
"""

import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO

from jax_prompt.core.failure import Failure
from jax_prompt.suite.shares import Share
from jax_prompt.suite.suite import Standing
from jax_prompt.train.log import duration
from jax_prompt.train.processes import CHILD, ended_by

GRACE_SECONDS = 60.0  # for a process to keep a checkpoint and to give its unit back
_INVALID = 2  # the exit code of wrong input


class Crew:
    """Processes that work on one benchmark, from `run` to its end.

    Args:
      command: the command line of each.
      places: the share of each.
      say: prints a line.
    """

    def __init__(self, command: Sequence[str], places: Sequence[Share], say: Callable[[str], None]):
        self.command, self.places, self.say = command, places, say
        self.processes: list[subprocess.Popen[str]] = []
        self.readers: list[threading.Thread] = []
        self.lines: queue.Queue[tuple[int, str | None]] = queue.Queue()
        self.last = [''] * len(places)  # what each said last

    def run(self, look: Callable[[], None], look_seconds: float = 5.0) -> str:
        """Starts the processes, prints what they say, and returns when all have ended.

        Wrong input ends all at once, for it is wrong for each. Where another process is lost, the
        rest goes on: they take over its unit.

        Args:
          look: called every few seconds, and once at the end; it may print.
          look_seconds: time between calls.

        Returns:
          Which process was lost first, and why; '' for none.

        Raises:
          ValueError: a process found the input wrong; says what it said.
          Failure: all processes were lost.
        """
        lost, left, looked = list[str](), len(self.places), time.monotonic()
        try:
            self._start()
            while left:
                for place, line in self._heard(look_seconds):
                    if line is not None:
                        self.last[place] = line
                        self.say(f'worker {place + 1}: {line}')
                        continue
                    left -= 1
                    why = self._why(place)
                    lost += [why] if why else []
                if time.monotonic() - looked >= look_seconds:
                    look()
                    looked = time.monotonic()
        finally:
            self._stop()
        look()
        if len(lost) == len(self.places):
            raise Failure(f'all workers were lost. {lost[0]}')
        return lost[0] if lost else ''

    def _start(self) -> None:
        for place, share in enumerate(self.places):
            self.say(f'worker {place + 1}: {share.name}')
            process = _popen(self.command, share)
            self.processes.append(process)
            assert process.stdout is not None
            what = (place, process.stdout)
            self.readers.append(threading.Thread(target=self._read, args=what, daemon=True))
            self.readers[-1].start()

    def _read(self, place: int, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self.lines.put((place, line.rstrip()))
        self.lines.put((place, None))

    def _heard(self, seconds: float) -> list[tuple[int, str | None]]:
        """Returns the next line with its process, None for its end; [] after a silence."""
        try:
            return [self.lines.get(timeout=seconds)]
        except queue.Empty:
            return []

    def _why(self, place: int) -> str:
        """Returns why a process that has ended was lost; '' if it was not."""
        code = self.processes[place].wait()
        if code == _INVALID:
            raise ValueError(self.last[place].removeprefix('error: '))
        if not code:
            return ''
        how = ended_by(code)
        why = f'worker {place + 1} ({self.places[place].name}) {how}: {self.last[place]}'
        self.say(why)
        return why

    def _stop(self) -> None:
        """Ends the processes that still run; one that does not end in time is killed."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + GRACE_SECONDS
        try:
            for process in self.processes:
                process.wait(max(end - time.monotonic(), 0.0))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):  # asked a second time
            for process in self.processes:
                process.kill()
                process.wait()
        for process, reader in zip(self.processes, self.readers, strict=True):
            assert process.stdin is not None
            process.stdin.close()
            reader.join()


def _popen(command: Sequence[str], share: Share) -> 'subprocess.Popen[str]':
    """Starts a process on its share. A child has the cores of the thread that starts it."""
    before = os.sched_getaffinity(0) if share.cores and hasattr(os, 'sched_setaffinity') else None
    environment = {**os.environ, **share.environment, CHILD: '1', 'PYTHONUNBUFFERED': '1'}
    if before is None and share.cores:  # a system that binds no process to cores
        environment['NPROC'] = str(len(share.cores))
    try:
        if before is not None:
            os.sched_setaffinity(0, share.cores)
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,  # never written: its end tells the child that this one is gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            start_new_session=True,  # Ctrl-C comes to the parent, which then ends its children
        )
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)


class Display:
    """Says how far a benchmark is whenever that changes, and the first unit that fails.

    Args:
      stands: tells how the units stand.
      say: prints a line.
    """

    def __init__(self, stands: Callable[[], list[Standing]], say: Callable[[str], None]):
        self.stands, self.say, self.began = stands, say, time.monotonic()
        found = stands()
        self.before = {one.unit.folder for one in found if one.state in ('done', 'failed')}
        self.failed = {one.unit.folder for one in found if one.state == 'failed'}
        self.said, self.told_failure = '', False

    def tell(self) -> None:
        """Looks once, and says what is new."""
        found = self.stands()
        failed = [one for one in found if one.state == 'failed']
        new = next((one for one in failed if one.unit.folder not in self.failed), None)
        if new and not self.told_failure:
            self.told_failure = True
            self.say(f'first failure: {new.unit.name}: {new.detail}; {new.unit.folder / "failed"}')
        done = sum(one.state == 'done' for one in found)
        text = f'{done} of {len(found)} units done, {len(failed)} failed'
        if text == self.said:
            return
        self.said = text
        ended = [one.unit.folder for one in found if one.state in ('done', 'failed')]
        own, left = len(set(ended) - self.before), len(found) - len(ended)
        seconds = (time.monotonic() - self.began) * left / own if own else 0.0
        self.say(f'{text}{f", about {duration(seconds)} left" if own and left else ""}')
