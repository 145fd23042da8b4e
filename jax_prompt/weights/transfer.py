"""Brings a file from an HTTP server: resumed, whole, checked, and by one process at a time.

`requests` does the talking: proxies and certificates of the environment, redirects (a login is not
carried to another server), timeouts. It is here already, as a need of tensorflow-datasets, and is
kept by the Python Software Foundation. What else could do it, and why it does not:

- huggingface_hub (8 MB, and 15 MB of hf-xet, httpx2, click, filelock, fsspec): resumes and locks,
  but serves one hub, and most files here lie elsewhere; it does not compare a file's SHA-256.
- pooch (small; needs requests and platformdirs): checks and moves whole, but begins a broken file
  of a gigabyte anew, and has no lock.
- fsspec (2 MB; aiohttp for HTTP): does not resume and does not check.

What was brought so far lies in the folder of a lease (`core.lease`) beside the file. If the process
ends, the next one takes the lease over and goes on from there, provided the server says that its
file is the same (`If-Range`).
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax_prompt.core.checksum import hash_file
from jax_prompt.core.files import put_in_place
from jax_prompt.core.json_file import load_json
from jax_prompt.core.lease import acquire, read_tenure
from jax_prompt.weights.answers import (
    Address,
    Broken,
    Login,
    NotFetched,
    check_answer,
    mark_of,
    stated_sha256,
    total_size,
    why_broken,
)
from jax_prompt.weights.cache import FIRST_USE, STATED, FileRecord, write_record

_CHUNK = 2**16  # what of a piece came before a break is lost
_PART, _STATE = 'part', 'part.json'


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes:
      connect_seconds: until it answers.
      read_seconds: between two pieces of what it sends.
      tries: attempts in a row that may bring nothing.
      pause_seconds: before the second attempt; each further pause is twice as long.
      poll_seconds: between two looks at another process that brings the same file.
    """

    connect_seconds: float = 15.0
    read_seconds: float = 60.0
    tries: int = 4
    pause_seconds: float = 1.0
    poll_seconds: float = 0.5


def transfer(
    address: Address, path: Path, patience: Patience | None = None, *, quiet: bool = False
) -> None:
    """Brings a file and writes its record beside it; waits where another process brings it already.

    Args:
      address: where it is.
      path: the file. Its folder is made. Nothing happens if it is there.
      patience: how long to wait for the server.
      quiet: True shows no progress.

    Raises:
      NotFetched: the server, the network or the checksum says no. What was brought stays for the
        next attempt, unless its checksum is wrong.
      OSError: the disk is full, or the folder can't be written.
    """
    patience = patience or Patience()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path, patience, quiet) as folder:
        if folder is None:
            return
        stated = _bring(address, folder, patience, quiet)
        part = folder / _PART
        digest, size = hash_file(part), part.stat().st_size
        for wanted in (address.sha256, stated):
            if not digest.startswith(wanted):
                part.unlink()
                raise NotFetched(
                    f'{address.shown} has another content than its publisher states: sha256 '
                    f'{digest}, stated {wanted}. It was removed; try again, or pass a file that '
                    'you trust'
                )
        pinned = STATED if address.sha256 or stated else FIRST_USE
        write_record(path, FileRecord(address.shown, digest, size, pinned))
        put_in_place(part, path, durable=True)


@contextmanager
def _alone(path: Path, patience: Patience, quiet: bool) -> Iterator[Path | None]:
    """Gives the folder in which this process brings a file; None where the file is there."""
    unit = path.with_name(f'.{path.name}.fetching')
    lease = told = None
    while lease is None:
        if path.exists():
            break
        found = read_tenure(unit)
        if found.state in ('new', 'free'):
            lease = acquire(unit, found)
            continue
        if not (told or quiet):
            told = found.owner
            print(f'waiting for another process that fetches {path}', flush=True)
        time.sleep(patience.poll_seconds)
    if lease is None:
        yield None
        return
    done = False
    try:
        # Another process may have finished between the look and the lease.
        yield None if path.exists() else lease.directory
        done = True
    finally:
        lease.release()
        if done or path.exists():
            shutil.rmtree(lease.directory, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process has it already
                os.rmdir(unit)


def _bring(address: Address, folder: Path, patience: Patience, quiet: bool) -> str:
    """Brings all bytes into `folder`/part; returns the checksum that the server states, or ''."""
    failed, before, pause = 0, -1, patience.pause_seconds
    while True:
        try:
            return _attempt(address, folder, patience, quiet)
        except Broken as error:
            size = _size(folder / _PART)
            failed = 1 if size > before else failed + 1
            if size > before:
                pause = patience.pause_seconds
            before = size
            if failed >= patience.tries:
                kept = f' {size / 1e6:.0f} MB are kept; the same command goes on.' if size else ''
                raise NotFetched(f'{address.shown} was not fetched: {error}.{kept}') from error
            time.sleep(min(pause, 60.0))
            pause *= 2


def _attempt(address: Address, folder: Path, patience: Patience, quiet: bool) -> str:
    """Goes on with what is there, to the end."""
    import requests

    part, state = folder / _PART, _read_state(folder / _STATE)
    have = _size(part) if state.get('url') == address.url and state.get('mark') else 0
    headers = {'Accept-Encoding': 'identity'}
    if have:
        headers |= {'Range': f'bytes={have}-', 'If-Range': state['mark']}
    timeout = (patience.connect_seconds, patience.read_seconds)
    try:
        with requests.get(
            address.url, headers=headers, timeout=timeout, stream=True, auth=Login(address.token)
        ) as answer:
            check_answer(answer, address)
            if answer.status_code == 416:
                part.unlink(missing_ok=True)
                raise Broken('the server has less of the file than was brought')
            start = have if answer.status_code == 206 else 0
            total = total_size(answer, start)
            _write_state(folder / _STATE, address.url, mark_of(answer))
            _save(answer, part, start, total, address, quiet)
            return stated_sha256(answer)
    except (requests.ConnectionError, requests.Timeout) as error:
        why, passes = why_broken(error)
        if passes:
            raise Broken(why) from error
        raise NotFetched(f'{address.shown} was not fetched: {why}') from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise Broken('the connection broke off') from error
    except requests.RequestException as error:
        raise NotFetched(f'{address.shown} was not fetched: {type(error).__name__}') from error


def _save(answer: Any, part: Path, start: int, total: int, address: Address, quiet: bool) -> None:
    """Writes what comes behind the first `start` bytes, and compares the size."""
    from tqdm import tqdm

    free = shutil.disk_usage(part.parent).free
    if total - start > free:
        raise NotFetched(
            f'{address.shown} has {total / 1e6:.0f} MB; the disk of {part.parent.parent} has room '
            f'for {free / 1e6:.0f} MB. Make room, or set JAX_PROMPT_CACHE to another folder'
        )
    name = address.shown.rsplit('/', 1)[-1]
    # Without a terminal there is no bar.
    bar = tqdm(
        total=total or None,
        initial=start,
        unit='B',
        unit_scale=True,
        desc=name,
        disable=True if quiet else None,
    )
    with bar, part.open('ab' if start else 'wb') as file:
        file.truncate(start)
        for block in answer.iter_content(_CHUNK):
            file.write(block)
            bar.update(len(block))
    size = _size(part)
    if total and size < total:
        raise Broken(f'{size} of {total} bytes came')
    if total and size > total:
        part.unlink()
        raise Broken(f'{size} bytes came, {total} were announced')


def _read_state(path: Path) -> dict[str, str]:
    try:
        state = load_json(path, '')
    except (ValueError, FileNotFoundError):
        return {}
    texts = isinstance(state, dict) and all(isinstance(value, str) for value in state.values())
    return state if texts else {}


def _write_state(path: Path, url: str, mark: str) -> None:
    path.write_text(json.dumps({'url': url, 'mark': mark}), encoding='utf-8')


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
