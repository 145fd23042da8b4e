"""Decoded images of a split: all in memory, or a stream of batches for what does not fit."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from jax_prompt.data.room import ROOM
from jax_prompt.data.source import Split, visit
from jax_prompt.data.transforms import StoredView


def load_images(split: Split, view: StoredView, *, workers: int = 2) -> np.ndarray:
    """Decodes the images of a whole split.

    Args:
      split: the split.
      view: how images are stored.
      workers: threads.

    Returns:
      [n, S, S, 3] uint8 RGB.

    Raises:
      ValueError: images that can't be decoded, by name.
    """
    images = np.empty((len(split), view.size, view.size, 3), np.uint8)

    def store(i: int, image: np.ndarray) -> None:
        images[i] = view.resize(image)

    visit(split, store, workers)
    return images


class Stream:
    """Batches of a split that does not fit in memory, decoded by threads ahead of their use.

    The images are those that `load_images` would give, bit for bit. A stream keeps no position: to
    go on after batch k, ask for the batches of order[k:].

    Args:
      split: the split.
      view: how images are stored.
      workers: threads.
      prefetch: batches decoded ahead of the one in use.
    """

    def __init__(self, split: Split, view: StoredView, *, workers: int = 2, prefetch: int = 4):
        self.split, self.view = split, view
        self.workers, self.prefetch = max(workers, 1), max(prefetch, 0)

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the batches of an order.

        The threads end with the iterator: exhausted, closed, dropped or failed.

        Args:
          order: indices into the split, [steps, B] integers.

        Yields:
          Images [B, S, S, 3] uint8 and labels [B] int32 for each row.

        Raises:
          ValueError: indices outside the split, at once; a corrupt image, at its batch.
        """
        order = np.asarray(order)
        if order.ndim != 2 or order.dtype.kind not in 'iu':
            raise ValueError(f'order is {order.dtype} {list(order.shape)}; wanted int [steps, B]')
        if order.size and not (order.min() >= 0 and order.max() < len(self)):
            raise ValueError(
                f'indices {order.min()}..{order.max()} leave the {len(self)} examples of split '
                f"'{self.split.name}'"
            )
        return self._batches(order)

    def _batches(self, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        labels = np.asarray(self.split.labels, np.int32)
        pool = ThreadPoolExecutor(self.workers, 'stream')
        ahead: deque[tuple[np.ndarray, list[Future]]] = deque()
        rows = iter(order)
        try:
            for row in order:
                while len(ahead) <= self.prefetch and (new := next(rows, None)) is not None:
                    ahead.append(self._submit(pool, new))
                images, parts = ahead.popleft()
                for part in parts:
                    part.result()
                yield images, labels[row]
        finally:
            pool.shutdown(cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, row: np.ndarray) -> tuple[np.ndarray, list[Future]]:
        images = np.empty((len(row), self.view.size, self.view.size, 3), np.uint8)

        def work(places: np.ndarray) -> None:
            for j in places:
                with ROOM.keep():
                    images[j] = self.view.resize(self.split.read(int(row[j])))

        places = np.array_split(np.arange(len(row)), min(self.workers, max(len(row), 1)))
        return images, [pool.submit(work, part) for part in places]
