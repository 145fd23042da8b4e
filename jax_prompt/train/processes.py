"""Several processes of one run: joining them, asking process 0, and saying who was lost.

Process 0 alone reads and writes the run directory. What the others need of it (whether the run was
begun, a checkpoint) goes to them through `from_primary` and `share`, so they need not see its disk.

A lost process can't be left out of a run: collectives wait for it. JAX's coordination service
notices that its heartbeats stopped and aborts the others, with a stack trace. `supervise` runs a
process of the run as a child, so that even then the last line says who was lost and how to go on.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

CHILD = 'JAX_PROMPT_SUPERVISED'  # a variable that says so to a child
# What a process says once it has joined, and what JAX writes of others before it aborts one.
_HEAD = re.compile(r'process (\d+) of (\d+):')
_SILENT = re.compile(r'stopped sending heartbeats\):\s*([\d\s]+)')
_NO_SERVICE = 'Failed to send RPC to coordination service'
# How gloo aborts a process. The collective with a lost process fails. Where a process has several
# devices, its next collective may then receive what was sent for the one that failed.
_GLOO = "terminate called after throwing an instance of 'gloo::"
_RAISES = {'ValueError': ValueError, 'FileNotFoundError': FileNotFoundError}


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_seconds: int = 30,
) -> None:
    """Joins the other processes of a run; before anything touches a device.

    Args:
      coordinator: 'host:port' of process 0. None: SLURM, Open MPI, TPU pods and Kubernetes say it.
      num_processes: processes of the run; likewise.
      process_id: which of them this is; likewise.
      heartbeat_seconds: a process that is silent for so long is taken for lost.

    Raises:
      ValueError: nothing says where the others are.
    """
    # A signal that ends a job ends it: what counts is the last checkpoint.
    jax.config.update('jax_enable_preemption_service', False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=heartbeat_seconds,
        )
    except ValueError as error:
        raise ValueError(
            f'{error} Neither SLURM, Open MPI, a TPU pod nor Kubernetes was found; give '
            '--coordinator=HOST:PORT --num_processes=N --process_id=I'
        ) from error
    # `supervise` reads this line.
    print(
        f'process {jax.process_index()} of {jax.process_count()}: {jax.local_device_count()} of '
        f'{jax.device_count()} devices',
        file=sys.stderr,
        flush=True,
    )


def is_primary() -> bool:
    """Whether this process writes the run directory."""
    return jax.process_index() == 0


def from_primary(read: Callable[[], Any]) -> Any:
    """Calls a function in process 0 and returns its JSON-able value in each.

    Raises:
      ValueError, FileNotFoundError: as the function did, in each.
    """
    if jax.process_count() == 1:
        return read()
    text = b''
    if is_primary():
        try:
            text = json.dumps({'value': read()}).encode()
        except tuple(_RAISES.values()) as error:
            text = json.dumps({'kind': type(error).__name__, 'text': str(error)}).encode()
    size = int(_broadcast(np.array(len(text), np.int64).tobytes(), 8).view(np.int64)[0])
    got = json.loads(_broadcast(text, size).tobytes())
    if 'kind' in got:
        raise _RAISES.get(got['kind'], ValueError)(got['text'])
    return got['value']


def share(tree: Any, like: Any) -> Any:
    """Returns process 0's tree of arrays in each, numpy, bit for bit.

    Args:
      tree: the tree; read in process 0 alone.
      like: a tree of the same structure, shapes and dtypes.
    """
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    leaves, structure = jax.tree.flatten(like)
    sizes = [int(np.prod(np.shape(leaf))) * leaf.dtype.itemsize for leaf in leaves]
    data = b''
    if is_primary():
        data = b''.join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))
    data = _broadcast(data, sum(sizes)).tobytes()
    ends = np.cumsum(sizes)
    parts = [
        np.frombuffer(data[end - size : end], leaf.dtype).reshape(np.shape(leaf))
        for leaf, size, end in zip(leaves, sizes, ends, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)


def _broadcast(data: bytes, size: int) -> np.ndarray:
    from jax.experimental import multihost_utils

    mine = np.frombuffer(data if is_primary() else bytes(size), np.uint8)
    return np.ascontiguousarray(multihost_utils.broadcast_one_to_all(mine))


def end_after(
    error: Exception, known: tuple[type[Exception], ...], heartbeat_seconds: int
) -> NoReturn:
    """Ends a process of several after an error, without the farewell that waits for the others.

    A failed collective mostly means that another process is lost. JAX then says which, and aborts
    this one, once heartbeats are due; if it doesn't, the error was this process's own.

    Args:
      error: the error.
      known: errors whose message is all that the user needs; others show their traceback.
      heartbeat_seconds: as in `connect`.
    """
    if isinstance(error, known):
        print(f'error: {error}', file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)
    if isinstance(error, jax.errors.JaxRuntimeError):
        time.sleep(heartbeat_seconds + 10)
    elif is_primary():
        time.sleep(2)  # others that fail alike end before the coordination service does
    os._exit(2 if isinstance(error, known) else 1)


def is_supervised() -> bool:
    """Whether this process is the child of `supervise`; if so, it ends when its parent does."""
    if CHILD not in os.environ:
        return False

    def watch() -> None:
        os.read(0, 1)  # not sys.stdin, whose lock would be held when Python ends
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return True


def supervise(command: Sequence[str], workdir: Path) -> int:
    """Runs a process of a run as a child, and ends with one clear line where it was aborted.

    Args:
      command: the child's command line.
      workdir: the run directory.

    Returns:
      The exit code: the child's own, or 128 + the signal that ended it.
    """
    child = subprocess.Popen(
        command,
        env={**os.environ, CHILD: '1'},
        stdin=subprocess.PIPE,  # never written: its end tells the child that this process is gone
        stderr=subprocess.PIPE,
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal interrupts the child too
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    head, last = '', list[str]()
    assert child.stderr is not None
    for line in child.stderr:
        sys.stderr.buffer.write(line)
        sys.stderr.flush()
        last = [*last[-200:], line.decode(errors='replace')]
        head = head or (last[-1].strip() if _HEAD.match(last[-1]) else '')
    code = child.wait()
    if code >= 0:
        return code
    why = _who_is_lost(head, ''.join(last)) if code == -signal.SIGABRT else ''
    why = why or f'this process {ended_by(code)}'
    print(f'error: {why}. {_how_to_go_on(workdir)}', file=sys.stderr, flush=True)
    return 128 - code


def ended_by(code: int) -> str:
    """Says how a process ended, from the code that `subprocess` gives or a shell would show.

    >>> ended_by(-9), ended_by(143), ended_by(1)
    ('was ended by SIGKILL', 'was ended by SIGTERM', 'ended with exit code 1')
    """
    number = -code if code < 0 else code - 128
    names = {one.value: one.name for one in signal.Signals}
    return f'was ended by {names[number]}' if number in names else f'ended with exit code {code}'


def _who_is_lost(head: str, text: str) -> str:
    """Says which process is lost, from what JAX wrote before it aborted this one; '' if unclear."""
    match = _HEAD.match(head)
    if not match:
        return ''
    here, total = match.groups()
    silent = _SILENT.search(text)
    gone = silent[1].split() if silent else ['0'] if _NO_SERVICE in text else []
    if gone:
        names = f'process {gone[0]}' if len(gone) == 1 else f'processes {", ".join(gone)}'
        return f'{names} of {total} lost, noticed by process {here}'
    if _GLOO in text:
        failed = f'gloo aborted process {here} of {total} in a collective operation'
        return f'{failed}, as it does when another process is lost'
    return ''


def _how_to_go_on(workdir: Path) -> str:
    """Says how to start again, and from which checkpoint."""
    steps = [
        path
        for pattern in ('checkpoints/*', 'search/*/*', 'pruned/*')
        for path in Path(workdir).glob(pattern)
        if path.name.isdigit()
    ]
    latest = max(steps, key=lambda path: path.stat().st_mtime, default=None)
    where = f'step {latest.name} ({latest})' if latest else 'its last checkpoint'
    return f'Start it again, with as many processes as you like: it goes on from {where}'
