"""Carries out the opcodes of a pickle on plain values, within bounds.

Python's own reader builds whatever a file says. A small file can then use up the stack (a deep
tuple is hashed by recursion), the time (a tuple of itself twice, 60 times over, has 2**60 ends) or
the memory (functions that double a text). Here every opcode is a few lines of Python, nothing
recurses, and what a pickle may do is counted:

- opcodes, and with them the values that are made;
- the bytes of one text or number, and of the whole pickle;
- the length of what a pickle hands to functions, summed over all calls.

Keys of a dict are plain values, so hashing them is cheap. Errors show short excerpts.

The meaning of the opcodes: Python's `pickletools.py`, which also takes the bytes apart here.
"""

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

from jax_prompt.weights.pickle_values import Container, Function, Refused, excerpt

MAX_OPCODES = 2**21
MAX_BYTES = 256 * 2**20  # of a pickle, which holds names and shapes only
_MAX_TEXT = 2**20  # bytes of one text
_MAX_BITS = 2048  # of a number
_MAX_WORK = 2**21  # items and characters that are handed to functions
_PLAIN = (str, int, float, bool, bytes, type(None))


class _Bounded:
    """A stream that gives no more than a pickle may hold."""

    def __init__(self, stream: BinaryIO):
        self._stream, self._place = stream, 0  # a file's own `tell` is a call of the system

    def tell(self) -> int:
        return self._place

    def read(self, size: int) -> bytes:
        if size > _MAX_TEXT:
            raise Refused(f'its pickle holds a text of {size} bytes; at most {_MAX_TEXT} are read')
        return self._counted(self._stream.read(size))

    def readline(self) -> bytes:
        line = self._stream.readline(_MAX_TEXT + 1)
        if len(line) > _MAX_TEXT:
            raise Refused(f'its pickle holds a line of more than {_MAX_TEXT} bytes')
        return self._counted(line)

    def _counted(self, data: bytes) -> bytes:
        self._place += len(data)
        if self._place > MAX_BYTES:
            raise Refused(f'its pickle has more than {MAX_BYTES} bytes')
        return data


class Machine:
    """Carries out one pickle.

    Args:
      find: returns what a global name stands for: a `Function`, a subclass of `Container`, or a
        value.
      refer: returns what a persistent id stands for.
    """

    def __init__(self, find: Callable[[str, str], Any], refer: Callable[[Any], Any]):
        self._find, self._refer = find, refer
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._work = 0

    def run(self, stream: BinaryIO) -> Any:
        """Carries out the pickle that begins at the stream's place; leaves the stream after it.

        Raises:
          Refused: it is beyond a bound.
          ValueError, IndexError, KeyError, TypeError: it is damaged.
        """
        bounded: Any = _Bounded(stream)
        for count, (opcode, argument, place) in enumerate(pickletools.genops(bounded)):
            if count > MAX_OPCODES:
                raise Refused(f'its pickle has more than {MAX_OPCODES} opcodes')
            name = opcode.name
            if name in _PUTS and not 0 <= (argument or 0) <= (place or 0):
                # An honest pickle numbers an object by those before it.
                raise Refused(f'its pickle numbers an object {argument} at byte {place}')
            if name in _VALUES:
                if type(argument) is int and argument.bit_length() > _MAX_BITS:
                    raise Refused(f'it holds {excerpt(argument)}')
                self._stack.append(argument)
            elif name == 'MARK':
                self._marks.append(len(self._stack))
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif name != 'STOP':
                step = _STEPS.get(name)
                if step is None:
                    raise ValueError(f'opcode {name} is not used by checkpoints')
                step(self, argument)
        return self._pop()

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise IndexError('more is taken from its stack than is there')
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise TypeError(f'an item is put into something that is no {kind.__name__}')
        return self._stack[-1]

    def _pop_mark(self, _: Any = None) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _take(self, _: Any) -> None:
        """POP takes a mark where one is on top."""
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, number: int | None) -> None:
        self._memo[len(self._memo) if number is None else int(number)] = self._stack[-1]

    def _get(self, number: Any) -> None:
        self._stack.append(self._memo[int(number)])

    def _tuple(self, size: int) -> None:
        items = [self._pop() for _ in range(size)]
        self._stack.append(tuple(items[::-1]))

    def _append(self, _: Any) -> None:
        item = self._pop()
        self._top(list).append(item)

    def _appends(self, _: Any) -> None:
        items = self._pop_mark()
        self._top(list).extend(items)

    def _set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._top(dict)[self._key(key)] = value

    def _set_items(self, _: Any) -> None:
        items = self._pop_mark()
        self._fill(self._top(dict), items)

    def _fill(self, target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self._key(key)] = value
        return target

    def _key(self, key: Any) -> Any:
        """Returns a dict's key: a plain value, or the text of a short tuple of them."""
        if type(key) in _PLAIN:
            return key
        if type(key) is tuple and len(key) <= 8 and all(type(part) in _PLAIN for part in key):
            return '(' + ', '.join(excerpt(part) for part in key) + ')'
        raise Refused(f'a key of a dict is {excerpt(key)}; only plain values are read')

    def _name(self, name: str) -> None:
        self._stack.append(self._find(*name.split(' ', 1)))

    def _stack_name(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise TypeError('a name is no text')
        self._stack.append(self._find(module, name))

    def _reduce(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        self._call(function, arguments)

    def _new_with_names(self, _: Any) -> None:
        names, arguments, function = self._pop(), self._pop(), self._pop()
        if names:
            raise ValueError('it makes an object from named arguments')
        self._call(function, arguments)

    def _inst(self, name: str) -> None:
        arguments = self._pop_mark()
        self._call(self._find(*name.split(' ', 1)), tuple(arguments))

    def _obj(self, _: Any) -> None:
        function, *arguments = self._pop_mark()
        self._call(function, tuple(arguments))

    def _call(self, function: Any, arguments: Any) -> None:
        if type(arguments) is not tuple:
            raise TypeError('arguments are no tuple')
        self._pay(*arguments)
        if isinstance(function, Function):
            self._stack.append(function.call(*arguments))
        elif isinstance(function, type) and issubclass(function, Container):
            made, pairs = function(), arguments[0] if arguments else ()
            if type(pairs) not in (list, tuple) or len(arguments) > 1:
                raise TypeError('a container is made from something that is no list')
            for key, value in pairs:
                made[self._key(key)] = value
            self._stack.append(made)
        else:
            raise TypeError('it calls what is no function')

    def _pay(self, *values: Any) -> None:
        """Counts what a function is given; every function's work is at most that."""
        sized = (str, bytes, tuple, list, dict)
        self._work += sum(len(value) for value in values if isinstance(value, sized))
        if self._work > _MAX_WORK:
            raise Refused(f'its pickle hands more than {_MAX_WORK} items to functions')

    def _build(self, _: Any) -> None:
        state = self._pop()
        target = self._stack[-1]
        self._pay(state)
        own = vars(type(target)).get('__setstate__')
        if own is None:
            raise TypeError('it gives a state to something that takes none')
        own(target, state)

    def _persistent(self, identifier: Any) -> None:
        self._stack.append(self._refer(identifier))


_VALUES = frozenset(
    [
        *('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT'),
        *('STRING', 'BINSTRING', 'SHORT_BINSTRING', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8'),
        *('UNICODE', 'SHORT_BINUNICODE', 'BINUNICODE', 'BINUNICODE8'),
    ]
)
_PUTS = ('PUT', 'BINPUT', 'LONG_BINPUT')
# A set is kept as a list, so that its items need not be hashed.
_CONSTANTS: dict[str, Callable[[], Any]] = {
    'NONE': lambda: None,
    'NEWTRUE': lambda: True,
    'NEWFALSE': lambda: False,
    'EMPTY_LIST': list,
    'EMPTY_SET': list,
    'EMPTY_TUPLE': tuple,
    'EMPTY_DICT': dict,
}
_STEPS: dict[str, Callable[[Machine, Any], Any]] = {
    'PROTO': lambda machine, _: None,
    'FRAME': lambda machine, _: None,
    'POP': Machine._take,
    'POP_MARK': Machine._pop_mark,
    'DUP': Machine._duplicate,
    'MEMOIZE': Machine._put,
    **dict.fromkeys(_PUTS, Machine._put),
    **dict.fromkeys(('GET', 'BINGET', 'LONG_BINGET'), Machine._get),
    'TUPLE1': lambda machine, _: machine._tuple(1),
    'TUPLE2': lambda machine, _: machine._tuple(2),
    'TUPLE3': lambda machine, _: machine._tuple(3),
    'TUPLE': lambda machine, _: machine._stack.append(tuple(machine._pop_mark())),
    'FROZENSET': lambda machine, _: machine._stack.append(tuple(machine._pop_mark())),
    'LIST': lambda machine, _: machine._stack.append(machine._pop_mark()),
    'DICT': lambda machine, _: machine._stack.append(machine._fill({}, machine._pop_mark())),
    'APPEND': Machine._append,
    **dict.fromkeys(('APPENDS', 'ADDITEMS'), Machine._appends),
    'SETITEM': Machine._set_item,
    'SETITEMS': Machine._set_items,
    'GLOBAL': Machine._name,
    'STACK_GLOBAL': Machine._stack_name,
    **dict.fromkeys(('REDUCE', 'NEWOBJ'), Machine._reduce),
    'NEWOBJ_EX': Machine._new_with_names,
    'INST': Machine._inst,
    'OBJ': Machine._obj,
    'BUILD': Machine._build,
    'PERSID': Machine._persistent,
    'BINPERSID': lambda machine, _: machine._persistent(machine._pop()),
}
