"""The door of every command: what a user can mend becomes a line or two and an exit code.

    if __name__ == '__main__':
        enter(main)

The exit code is main's own; 2 where the input or the machine is at fault; 130 after Ctrl-C and 143
after SIGTERM; 141 where the reader of the output went away (`predict | head`). All other errors are
defects of this package: they show their traceback, and the exit code is 1. Where the variable
JAX_PROMPT_TRACEBACK is set, every error shows its traceback.
"""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from jax_prompt.core.failure import Failure, Interrupted

GO_ON = 'the same command goes on from what is saved'
# What an extra of the package installs.
_EXTRAS = {
    **dict.fromkeys(('matplotlib', 'sklearn'), 'quickstart'),
    **dict.fromkeys(('tensorflow', 'cv2', 'h5py', 'scipy'), 'prepare'),
    **dict.fromkeys(('starlette', 'uvicorn', 'python_multipart'), 'serve'),
}


def enter(main: Callable[..., Any] | str, *args: Any) -> NoReturn:
    """Runs a command and ends the process.

    Args:
      main: the command; returns its exit code, None for 0. Or the name of a module that has it as
        `main`: Ctrl-C while it is imported meets the door too.
      *args: its arguments.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        command = import_module(main).main if isinstance(main, str) else main
        code = command(*args) or 0
        sys.stdout.flush()
    except BrokenPipeError:
        # Python writes what is left at exit, and would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except (KeyboardInterrupt, Exception) as error:
        text, code = reason(error)
        if not text or 'JAX_PROMPT_TRACEBACK' in os.environ:
            traceback.print_exception(error)
        if text:
            print(text, file=sys.stderr, flush=True)
    sys.exit(code)


def user_path(text: str) -> Path:
    """Returns a path of a command line, `~` expanded: a shell leaves `--out=~/x` as it is."""
    return Path(text).expanduser()


def _terminate(number: int, frame: Any) -> None:
    raise Interrupted('', number)


def reason(error: BaseException) -> tuple[str, int]:
    """Says what to tell of an error; '' for a defect.

    Args:
      error: what main raised.

    Returns:
      The text, of one or two lines, and the exit code.
    """
    if isinstance(error, KeyboardInterrupt):
        number = getattr(error, 'number', signal.SIGINT)
        return str(error) or f'interrupted; {GO_ON}', 128 + number
    text = _what(error)
    return (f'error: {text}', 2) if text else ('', 1)


def _what(error: BaseException) -> str:
    text = str(error)
    if getattr(error, 'errno', None) == errno.ENOSPC or 'No space left on device' in text:
        where = getattr(error, 'filename', None)
        return f'the disk is full{f" ({where})" if where else ""}; make room, then {GO_ON}'
    if 'RESOURCE_EXHAUSTED' in text or isinstance(error, MemoryError):
        return (
            'out of memory; lower --config.batch_size, or set --config.engine.micro_batch or '
            f'--config.model.remat=full. {_first_line(text)}'
        )
    if _lacks_device(error):
        asked = os.environ.get('JAX_PLATFORMS', '')
        return (
            f'JAX finds no device of JAX_PLATFORMS={asked!r} here; unset it to take what there is, '
            f'or set it to cpu. {_first_line(text)}'
        )
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f"{text}; pip install 'jax-prompt[{_EXTRAS[error.name]}]'"
    if isinstance(error, OSError) and error.errno is not None:
        where = f': {error.filename}' if error.filename is not None else ''
        return f'{error.strerror}{where}'
    if isinstance(error, ValueError | OSError | Failure):
        return text or type(error).__name__
    return ''


def _lacks_device(error: BaseException) -> bool:
    """Whether JAX found none of the devices that JAX_PLATFORMS asks for."""
    if 'nable to initialize backend' in str(error) or 'Unknown backend' in str(error):
        return isinstance(error, RuntimeError)
    if not isinstance(error, AssertionError) or 'JAX_PLATFORMS' not in os.environ:
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.endswith('xla_bridge.py')


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:300] if lines else ''
