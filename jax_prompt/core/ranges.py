"""The values that an option may have, declared where the option is declared.

A dataclass of options declares the range of each number beside its default, and checks itself:

>>> @dataclasses.dataclass(frozen=True)
... class Options:
...     rank: int = at_least(8, 1)
...     dropout_rate: float = share(0.0)
...
...     def __post_init__(self):
...         check_values(self)
>>> Options(rank=0)
Traceback (most recent call last):
ValueError: rank is 0; at least 1

NaN and infinity lie in no range. A number of whole things is at most a million where nothing else
is declared: more is a slip of the finger, and would only fail later, in memory.
"""

import dataclasses
import math
import numbers
from dataclasses import dataclass
from typing import Any

MANY = 1_000_000
LARGEST = 3.4e38  # of float32, which what trains is computed in
LARGEST_SEED = 2**32 - 1
KINDS = {int: 'a whole number', float: 'a number', bool: 'True or False', str: 'a text'}


@dataclass(frozen=True)
class Range:
    """Which numbers an option may be; for a tuple, which numbers each of its elements may be.

    Attributes:
      least: the lower end.
      most: the upper end.
      above: whether the lower end itself is left out.
      below: whether the upper end itself is left out.
      text: how an error says it; '': 'at least' and 'at most'.
    """

    least: float
    most: float
    above: bool = False
    below: bool = False
    text: str = ''

    def __contains__(self, value: Any) -> bool:
        low = self.least < value if self.above else self.least <= value
        return bool(low and (value < self.most if self.below else value <= self.most))

    def allowed(self, value: Any) -> str:
        """Says what is allowed instead of a value."""
        if self.text:
            return f'allowed: {self.text}'
        if value > self.most and math.isfinite(value):
            return f'at most {self.most}'
        finite = '' if math.isfinite(value) else 'finite, '
        return f'{finite}at least {self.least}'


def at_least(default: Any, least: int = 0, most: float = 0.0) -> Any:
    """Declares a number with a lower end; `most` 0: the largest that makes sense for its type."""
    return _ranged(default, Range(least, most))


def between(default: Any, least: float, most: float) -> Any:
    """Declares a number with two ends, both allowed."""
    return _ranged(default, Range(least, most, text=f'[{least:g}, {most:g}]'))


def share(default: Any, *, whole: bool = False) -> Any:
    """Declares a share from 0 to below 1; with `whole` 1 is allowed."""
    text = '[0, 1]' if whole else '[0, 1)'
    return _ranged(default, Range(0.0, 1.0, below=not whole, text=text))


def part(default: Any) -> Any:
    """Declares a part of something: above 0, up to 1, which is all of it."""
    return _ranged(default, Range(0.0, 1.0, above=True, text='above 0, up to 1'))


def positive(default: Any) -> Any:
    """Declares a number above 0."""
    return _ranged(default, Range(0.0, LARGEST, above=True, text='positive numbers'))


def seed(default: int = 0) -> Any:
    """Declares the seed of something random."""
    return _ranged(default, Range(0, LARGEST_SEED))


def real(default: Any) -> Any:
    """Declares a finite number of either sign."""
    return _ranged(default, Range(-LARGEST, LARGEST, text='finite numbers'))


def _ranged(default: Any, limits: Range) -> Any:
    return dataclasses.field(default=default, metadata={'range': limits})


def range_of(field: dataclasses.Field) -> Range | None:
    """Returns the range of a field, None where it declares none."""
    limits: Range | None = field.metadata.get('range')
    if limits is None or limits.most:
        return limits
    whole = field.type is int or str(field.type).startswith('tuple[int')
    return dataclasses.replace(limits, most=MANY if whole else LARGEST)


def check_values(options: Any, prefix: str = '') -> None:
    """Checks the types and the ranges of a dataclass's fields.

    Args:
      options: the dataclass.
      prefix: what stands before a name in an error, 'engine.'.

    Raises:
      ValueError: a value of another type than its field's, or outside its range.
    """
    for field in dataclasses.fields(options):
        name, value, limits = f'{prefix}{field.name}', getattr(options, field.name), range_of(field)
        kind: Any = field.type
        if kind in (bool, str) and not isinstance(value, kind):
            raise ValueError(f'{name} is {value!r}; allowed: {KINDS[kind]}')
        if kind in (int, float):
            _check_number(name, value, value, kind, limits)
        elif limits is not None:
            for one in value:
                _check_number(name, value, one, kind.__args__[0], limits)


def _check_number(name: str, value: Any, one: Any, kind: Any, limits: Range | None) -> None:
    """Checks a number `one`, which is the value or an element of it."""
    number = numbers.Integral if kind is int else numbers.Real
    if not isinstance(one, number) or isinstance(one, bool):
        raise ValueError(f'{name} is {value!r}; allowed: {KINDS[kind]}')
    if limits is not None and one not in limits:
        raise ValueError(f'{name} is {value!r}; {limits.allowed(one)}')
