"""Room for decoded images: one budget of memory for all threads that decode.

A large image can take a gigabyte while it is decoded and resized. Each image asks for room by its
number of pixels before it is decoded, and waits while others hold too much. An image that is larger
than the budget waits until it is alone.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Room:
    """A budget of bytes that threads share.

    A thread holds room for one image at a time: asking again gives back what it had. So no thread
    waits for more while it holds some, and there is no deadlock.

    Args:
      total: bytes.
    """

    def __init__(self, total: int):
        self.total = total
        self._held = 0
        self._changed = threading.Condition()
        self._own = threading.local()

    @contextmanager
    def keep(self) -> Iterator[None]:
        """Keeps the room that is taken inside the block until its end."""
        outer = getattr(self._own, 'keeps', False)
        self._own.keeps = True
        try:
            yield
        finally:
            self._own.keeps = outer
            if not outer:
                self._give_back()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Waits for room, and gives it back at the end of the block or of `keep` around it.

        Args:
          size: bytes; more than the budget waits until nothing else is held.
        """
        with self.keep():
            self._give_back()
            size = min(size, self.total)
            with self._changed:
                self._changed.wait_for(lambda: self._held + size <= self.total)
                self._held += size
            self._own.size = size
            yield

    def _give_back(self) -> None:
        size = getattr(self._own, 'size', 0)
        if size:
            self._own.size = 0
            with self._changed:
                self._held -= size
                self._changed.notify_all()


ROOM = Room(1 << 30)
