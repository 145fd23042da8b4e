"""Ctrl-C and SIGTERM while something trains: the device call at work ends and is saved.

A second signal ends the process at once; what was saved before stays. Python runs a handler of
signals only between two of its own steps, and a device call may take minutes, so a thread of its
own reads the signals as they come: it answers, and it ends the process at the second.

In a run of several processes a signal ends a process as ever: the others could not know at which
call to stop with it, and what counts is the last checkpoint.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import jax

from jax_prompt.core.failure import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_asked: list[int] = []


@contextmanager
def after_the_call() -> Iterator[None]:
    """Lets signals wait until `stop_if_asked`, as long as the block runs.

    Outside the main thread, and with several processes, signals stay as they are.

    Raises:
      Interrupted: a signal came so late that the block ended by itself.
    """
    alone = threading.current_thread() is threading.main_thread() and jax.process_count() == 1
    if not alone or any(signal.getsignal(number) is None for number in _SIGNALS):
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    _asked.clear()
    handlers = {number: signal.signal(number, _note) for number in _SIGNALS}
    former = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=_answer, args=(reader,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(writer)  # ends the thread
        thread.join()
        os.close(reader)
        asked = _asked[:1]
        _asked.clear()
    if asked:
        raise Interrupted('stopped; all is saved, and the same command goes on from it', *asked)


def _note(number: int, frame: object) -> None:
    _asked.append(number)


def _answer(reader: int) -> None:
    """Answers signals as they come."""
    count = 0
    while data := os.read(reader, 16):
        for number in filter(_SIGNALS.__contains__, data):
            count += 1
            if count > 1:
                _say('ended at once; the same command goes on from the last checkpoint')
                os._exit(128 + number)
            _say('stopping: the step at work is finished and saved; once more ends at once')


def _say(text: str) -> None:
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def stop_if_asked(name: str, step: int, save: Callable[[], None]) -> None:
    """Saves and stops where a signal came; else does nothing.

    Args:
      name: of the training.
      step: steps done.
      save: writes the checkpoint.

    Raises:
      Interrupted: says what is saved.
    """
    if _asked:
        number = _asked[0]
        _asked.clear()
        save()
        text = f'{name}: stopped after step {step}, saved; the same command goes on from there'
        raise Interrupted(text, number)
