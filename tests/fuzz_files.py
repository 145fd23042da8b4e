"""Reads mutated files of every kind that the package reads, and tells what became of each.

    PYTHONPATH=.:tests python tests/fuzz_files.py 10000 --seed 1

A case is a kind, a seed and a number: `--kind` and `--case` read one of them again. Cases are read
in forked children. A child that crashes, hangs or takes too much memory is ended and told of, and
the next goes on. A case is good if it gives the content of the whole file ("same"), other content
that the kind has no checksum against ("other"), or a ValueError that names the file ("refused").
Anything else is bad, and the exit code is 1.
"""

import argparse
import collections
import json
import logging
import os
import random
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_readers import Kind, kinds

SECONDS = 20.0  # a case may take
MEGABYTES = 200  # a case may add to what the child had
BATCH = 100  # cases of a child
GOOD = ('same', 'other', 'refused')
_MARKS = (b'PK\x01\x02', b'PK\x03\x04', b'PK\x05\x06', b'NUMPY', b'descr', b'data.pkl', b'": ')
_NUMBERS = (-1, 0, 1, 2**15, 2**31 - 1, 2**32, 2**62, -(2**63), 10**12)
_SUSPECT = (
    *('os.system', 'subprocess.Popen', 'os.exec', 'os.posix_spawn', 'os.fork', 'ctypes.dlopen'),
    *('socket.connect', 'shutil.rmtree', 'os.symlink', 'os.chmod'),
)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Returns a file that differs from a whole one in a way that a seeded generator chooses."""
    made, size = bytearray(data), len(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        way = rng.randrange(9)
        at = _place(made, rng) if made else 0
        if way <= 1 and made:
            made[at] ^= 1 << rng.randrange(8)
        elif way == 2 and made:
            made[at] = rng.choice((0, 255, rng.randrange(256)))
        elif way == 3:
            made[at : at + 8] = struct.pack('<q', rng.choice(_NUMBERS))[: rng.choice((2, 4, 8))]
        elif way == 4:
            del made[rng.randrange(size) :]
        elif way == 5:
            del made[at : at + rng.randrange(1, 200)]
        elif way == 6:
            made[at:at] = rng.randbytes(rng.choice((1, 4, 100)))
        elif way == 7:
            made[at:at] = made[at : at + rng.randrange(1, 2000)]
        else:
            length = rng.randrange(1, 500)
            made[at : at + length] = bytes(len(made[at : at + length]))
    return bytes(made)


def _place(data: bytearray, rng: random.Random) -> int:
    """Returns a place in a file: half of the time near what says how it is built."""
    marks = [mark for mark in _MARKS if mark in data]
    if marks and rng.random() < 0.5:
        mark, found, at = rng.choice(marks), [], -1
        while (at := data.find(mark, at + 1)) >= 0:
            found.append(at)
        return min(len(data) - 1, rng.choice(found) + rng.randrange(60))
    head = rng.random() < 0.3
    return rng.randrange(min(len(data), 2000) if head else len(data))


def outcome(kind: Kind, path: Path, want: Any) -> str:
    """Reads a case; returns what became of it."""
    try:
        got = kind.read(path)
    except (ValueError, FileNotFoundError) as error:
        if path.name not in str(error) and str(path.parent) not in str(error):
            return f'unnamed {type(error).__name__}: {str(error)[:150]}'
        return 'refused' if len(str(error)) < 8000 else f'a text of {len(str(error))} characters'
    except BaseException as error:
        return f'{type(error).__name__}: {str(error)[:150]}'
    return 'same' if _equal(got, want) else 'other'


def _equal(one: Any, other: Any) -> bool:
    if one.keys() != other.keys():
        return False
    for name, value in one.items():
        if not isinstance(value, np.ndarray):
            if value != other[name]:
                return False
        elif value.shape != other[name].shape or value.tobytes() != other[name].tobytes():
            return False
    return True


def case_of(kind: Kind, seed: int, number: int) -> bytes:
    """Returns the file of a case."""
    return mutate(kind.data, random.Random(f'{seed} {kind.name} {number}'))


def _child(kind: Kind, want: Any, numbers: list[int], seed: int, folder: Path, pipe: int) -> None:
    """Reads cases and writes a line for each."""
    events: list[str] = []
    sys.addaudithook(lambda name, _: events.append(name) if name in _SUSPECT else None)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        path = folder / 'case' / kind.file
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        path.write_bytes(case_of(kind, seed, number))
        events.clear()
        what = outcome(kind, path, want)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        if events:
            what = f'it asked for {events[0]}'
        elif grown > MEGABYTES:
            what = f'it took {grown} MB'
        os.write(pipe, (json.dumps([number, what]) + '\n').encode())
        if grown > MEGABYTES:
            break


def _batch(
    kind: Kind, want: Any, numbers: list[int], seed: int, folder: Path
) -> Iterator[tuple[int, str]]:
    """Forks children until all cases are read; yields (number, what became of it)."""
    left = list(numbers)
    while left:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reading)
                _child(kind, want, left, seed, folder, writing)
            finally:
                os._exit(0)
        os.close(writing)
        text, hung = b'', False
        while True:
            if not select.select([reading], [], [], SECONDS)[0]:
                hung = True
                os.kill(pid, signal.SIGKILL)
                break
            part = os.read(reading, 65536)
            if not part:
                break
            text += part
            *lines, text = text.split(b'\n')
            for number, what in map(json.loads, lines):
                left.remove(number)
                yield number, what
        os.close(reading)
        status = os.waitpid(pid, 0)[1]
        if hung or os.WIFSIGNALED(status):
            yield left.pop(0), 'it hung' if hung else f'it died by signal {os.WTERMSIG(status)}'


def run(count: int, seed: int, only: str = '', case: int | None = None) -> int:
    """Reads cases, prints the table and every bad case; returns how many are bad."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter('ignore')
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    bad = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chosen = [kind for kind in kinds(folder) if only in ('', kind.name)]
        for index, kind in enumerate(chosen):
            path = folder / 'whole' / kind.file
            path.parent.mkdir(exist_ok=True)
            shutil.rmtree(path.parent)
            path.parent.mkdir()
            path.write_bytes(kind.data)
            want = {
                name: np.array(value) if isinstance(value, np.ndarray) else value
                for name, value in kind.read(path).items()
            }
            share = count // len(chosen) + (index < count % len(chosen))
            numbers = list(range(share)) if case is None else [case]
            for start in range(0, len(numbers), BATCH):
                part = numbers[start : start + BATCH]
                for number, what in _batch(kind, want, part, seed, folder):
                    table[kind.name][what if what in GOOD else 'bad'] += 1
                    if what not in GOOD:
                        bad.append(f'--kind {kind.name!r} --seed {seed} --case {number}: {what}')
    print(f'{"kind":24}' + ''.join(f'{column:>10}' for column in (*GOOD, 'bad')))
    for name, counts in table.items():
        print(f'{name:24}' + ''.join(f'{counts[column]:10}' for column in (*GOOD, 'bad')))
    total = sum(table.values(), collections.Counter())
    print(f'{"all":24}' + ''.join(f'{total[column]:10}' for column in (*GOOD, 'bad')))
    print('\n'.join(bad[:100]))
    return len(bad)


def main() -> int:
    """Reads the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description='Read mutated files of every kind.')
    parser.add_argument('count', type=int, help='cases, shared among the kinds')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--kind', default='', help='this kind alone')
    parser.add_argument('--case', type=int, help='this case alone')
    args = parser.parse_args()
    return 1 if run(args.count, args.seed, args.kind, args.case) else 0


if __name__ == '__main__':
    sys.exit(main())
