"""Names this process for others that share a folder, and tells whether a named one is gone."""

import contextlib
import os
import re
import secrets
import socket
from functools import cache
from hashlib import sha256
from pathlib import Path


@cache
def host() -> str:
    """Names this machine since its start, and the set of processes that this one can see."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii'))
        parts.append(os.readlink('/proc/self/ns/pid'))
    name = re.sub(r'[^A-Za-z0-9]+', '', parts[0])[:24]
    return f'{name}-{sha256(repr(parts).encode()).hexdigest()[:8]}'


def new_owner() -> str:
    """Returns a name that no other process has, HOST-KEY-PID-RANDOM."""
    return f'{host()}-{os.getpid()}-{secrets.token_hex(4)}'


def is_gone(owner: str) -> bool:
    """Whether the process of a name is known to have ended: this machine says so.

    Of another machine's process, and of a name that `new_owner` did not make, nothing is known.
    """
    machine, *rest = owner.rsplit('-', 2)
    if len(rest) != 2 or not rest[0].isdigit() or machine != host() or os.name != 'posix':
        return False
    try:
        os.kill(int(rest[0]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
