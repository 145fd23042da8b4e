"""What a pickle is made of when `pickle_machine` carries it out, and how errors show it."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Refused(ValueError):
    """The file asks for something that a checkpoint of weights does not need."""


class Function(NamedTuple):
    """A function that a pickle may call; unlike a plain function it takes no attributes."""

    call: Callable[..., Any]


class Container(dict):
    """A dict that the machine makes for a class of dicts; BUILD hands it its state."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        del state


def excerpt(value: Any) -> str:
    """Returns a text of at most some 60 characters for any value, whatever it holds."""
    if isinstance(value, str | bytes):
        return repr(value[:40]) + ('...' if len(value) > 40 else '')
    if type(value) is int and value.bit_length() > 128:
        return f'a number of {value.bit_length()} bits'
    if value is None or type(value) in (int, float, bool):
        return repr(value)
    if type(value) in (tuple, list) and len(value) <= 8 and all(type(v) is int for v in value):
        return '(' + ', '.join(excerpt(v) for v in value) + ')'
    return f'a {type(value).__name__.lstrip("_").lower()}'
