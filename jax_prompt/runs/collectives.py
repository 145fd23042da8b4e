"""The collective operations of a compiled program, read from its text (HLO).

The text lists computations, each before those that call it. A loop tells its number of turns itself
(CPU, GPU), or it is the constant that its condition compares with (TPU). The compiler of TPUs
spreads one operation over several steps: it then stands in the computation of each, with the same
channel and a `chain_id`, and counts once.
"""

import math
import re
from dataclasses import dataclass, field

_KINDS = 'all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast'
_HEAD = re.compile(r'(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$')
_LINE = re.compile(rf'\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ({_KINDS})(-start)?\(')
_CALLED = re.compile(r'(body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)')
_LISTED = re.compile(r'(?:branch_computations|called_computations)=\{([^}]*)\}')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')
_CONDITION = re.compile(r'condition=%?([\w.\-]+)')
_CONSTANT = re.compile(r' = s32\[\]\S* constant\((\d+)\)')
_CHANNEL = re.compile(r'channel_id=(\d+)')
_ARRAY = re.compile(r'\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]')
_GROUPS = re.compile(r'replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]*)\})')
_MESH = re.compile(r'replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}')


@dataclass(frozen=True)
class Collective:
    """A collective operation.

    Attributes:
      kind: 'all-reduce', 'all-gather', ...
      nbytes: size of its result on one device, in bytes.
      devices: devices that take part in each group; 0: all.
      times: how often it runs in one run of the program. A loop whose number of turns the text does
        not tell counts as one turn.
    """

    kind: str
    nbytes: int
    devices: int
    times: int

    def sent(self, of_all: int) -> float:
        """Returns the bytes that a device sends in one run of the program, by rings.

        >>> Collective('all-reduce', 800, 0, 2).sent(8), Collective('all-gather', 800, 4, 1).sent(8)
        (2800.0, 600.0)

        Args:
          of_all: devices of the program.
        """
        n = self.devices or of_all
        part = (n - 1) / n
        factor = {
            'all-reduce': 2 * part,
            'reduce-scatter': n - 1,  # its result is one share
            'collective-permute': 1,
        }.get(self.kind, part)
        return self.times * self.nbytes * factor


@dataclass
class _Computation:
    """A computation of the text.

    Attributes:
      lines: its collective operations.
      calls: (computation, turns) of what it calls.
      bounds: its whole constants.
    """

    lines: list[str] = field(default_factory=list)
    calls: list[tuple[str, int]] = field(default_factory=list)
    bounds: list[int] = field(default_factory=list)


def collectives(text: str) -> list[Collective]:
    """Lists the collective operations of a compiled program.

    Args:
      text: `Compiled.as_text()`.
    """
    found, times = _run(text)
    out: dict[str, Collective] = {}
    for name, one in found.items():
        for line in one.lines if times[name] else ():
            channel = _CHANNEL.search(line)
            key = channel[1] if channel and 'chain_id=' in line else line
            if key not in out or out[key].times < times[name]:
                out[key] = _collective(line, times[name])
    return list(out.values())


def runs(text: str) -> dict[str, int]:
    """Returns how often each computation of a compiled program runs in one run of the program."""
    return _run(text)[1]


def _run(text: str) -> tuple[dict[str, _Computation], dict[str, int]]:
    """Returns the computations by name, and how often each runs."""
    found, entry = _read(text)
    times = dict.fromkeys(found, 0) | {entry: 1}
    for name in reversed(list(found)):  # callers first
        for callee, turns in found[name].calls:
            if callee in times:
                times[callee] += times[name] * turns
    return found, times


def _read(text: str) -> tuple[dict[str, _Computation], str]:
    """Returns the computations by name, and the name of the entry."""
    found: dict[str, _Computation] = {}
    entry, now = '', _Computation()
    for line in text.splitlines():
        if line.startswith(' '):
            now.calls += _callees(line, found)
            if _LINE.match(line):
                now.lines.append(line)
            elif match := _CONSTANT.search(line):
                now.bounds.append(int(match[1]))
        elif match := _HEAD.match(line):
            now = found[match[2]] = _Computation()
            entry = match[2] if match[1] else entry
    return found, entry


def _callees(line: str, found: dict[str, _Computation]) -> list[tuple[str, int]]:
    """Returns (computation, turns) of what an instruction calls; not what a reduction applies."""
    out = []
    for role, callee in _CALLED.findall(line):
        if role == 'body':
            out.append((callee, _turns(line, found)))
        elif role != 'to_apply' or ' call(' in line:
            out.append((callee, 1))
    for names in _LISTED.findall(line):
        out += [(callee.strip().removeprefix('%'), 1) for callee in names.split(',')]
    return out


def _turns(line: str, found: dict[str, _Computation]) -> int:
    """Returns how often a loop runs its body, 1 where that is not told."""
    if match := _TRIPS.search(line):
        return int(match[1])
    match = _CONDITION.search(line)
    bounds = found[match[1]].bounds if match and match[1] in found else []
    return bounds[0] if len(bounds) == 1 else 1


def _collective(line: str, times: int) -> Collective:
    match = _LINE.match(line)
    assert match
    shape, kind, started = match.groups()
    if started and kind != 'all-reduce' and shape.startswith('('):
        shape = [*_elements(shape), shape][1]  # what starts it names its operand first
    nbytes = sum(_bytes(dtype, sizes) for dtype, sizes in _ARRAY.findall(shape))
    return Collective(kind, nbytes, _group(line), times)


def _elements(shape: str) -> list[str]:
    """Splits the text of a tuple at its top level.

    >>> _elements('((f32[2], f32[4]{0}), bf16[8]{0:T(8,128)})')
    ['(f32[2], f32[4]{0})', 'bf16[8]{0:T(8,128)}']
    """
    parts, depth, start = list[str](), 0, 1
    for i, letter in enumerate(shape):
        depth += (letter in '([{') - (letter in ')]}')
        if (letter == ',' and depth == 1) or (letter == ')' and depth == 0):
            parts.append(shape[start:i].strip())
            start = i + 1
    return parts


def _bytes(dtype: str, sizes: str) -> int:
    digits = re.search(r'\d+', dtype)
    bits = int(digits[0]) if digits else 8
    return math.prod(map(int, filter(None, sizes.split(',')))) * bits // 8


def _group(line: str) -> int:
    """Returns the devices of a group, 0 for all.

    >>> _group('replica_groups=[2,4]<=[8]'), _group('replica_groups={{0,1,2,3},{4,5,6,7}}')
    (4, 4)
    >>> _group("replica_groups=mesh['a'=2,'b'=4], device_ids=([2,4]T(1,0)) {'b'}, dimensions={2}")
    4
    """
    if match := _MESH.search(line):
        sizes = dict(part.split('=') for part in match[1].split(','))
        return math.prod(int(sizes[axis.strip()]) for axis in match[2].split(','))
    match = _GROUPS.search(line)
    if not match:
        return 0
    return int(match[1]) if match[1] else len(match[2].split(',')) if match[2] else 0
