"""Dynamic batches: images of all requests and tasks are answered together.

One thread runs the device. It takes what waits, at most `max_batch` images, as soon as that many
are there or the first has waited `max_wait_ms`. While it computes, the next batch gathers. An image
whose request has given up is left out.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jax_prompt.data.transforms import StoredView
from jax_prompt.serve.backbone import Backbone
from jax_prompt.serve.metrics import Metrics
from jax_prompt.serve.refused import Unanswered

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Item:
    """An image for a task, that waits for its answer.

    Attributes:
      image: [S, S, 3] uint8, as `view` brings it there.
      task: name of the task.
      view: the view of the task when the image was read.
      read: reads the image again, for a task that was replaced by one with another view.
      deadline: time of `time.monotonic` after which nobody waits for the answer.
      result: becomes (task, probabilities), or fails with `Unanswered`.
    """

    image: np.ndarray
    task: str
    view: StoredView
    read: Callable[[StoredView], np.ndarray]
    deadline: float
    result: Future = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """Gathers items and answers them.

    Args:
      backbone: computes.
      max_wait_ms: longest wait for further images of a batch, in milliseconds.
      metrics: counts.
    """

    def __init__(self, backbone: Backbone, max_wait_ms: float, metrics: Metrics):
        self._backbone, self._wait, self._metrics = backbone, max_wait_ms / 1e3, metrics
        self._waiting: deque[Item] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name='batches', daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, items: Sequence[Item]) -> None:
        """Puts items in line; their results come later."""
        with self._changed:
            if self._stopping:
                raise RuntimeError('the batcher is closed')
            self._waiting.extend(items)
            self._changed.notify()

    def close(self) -> None:
        """Answers what waits, and ends the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._collect():
            now = time.monotonic()
            live = [item for item in batch if self._is_wanted(item, now)]
            if live:
                self._metrics.batch(len(live))
                self._answer(live)

    def _collect(self) -> list[Item]:
        """Waits for a batch; [] once all is answered and no more comes."""
        most = self._backbone.max_batch
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            if self._waiting:
                left = self._waiting[0].arrived + self._wait - time.monotonic()
                self._changed.wait_for(
                    lambda: len(self._waiting) >= most or self._stopping, max(left, 0)
                )
            return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def _is_wanted(self, item: Item, now: float) -> bool:
        """Whether somebody still waits for an item; one that expired is counted."""
        if not item.result.set_running_or_notify_cancel():
            self._metrics.count('expired')
            return False
        if now > item.deadline:
            self._metrics.count('expired')
            item.result.set_exception(Unanswered('it waited too long'))
            return False
        return True

    def _answer(self, items: list[Item]) -> None:
        """Answers items together, or each alone where that fails, so that one fails alone."""
        try:
            found = self._compute(items)
        except Exception as error:  # whatever it is, the thread goes on
            if len(items) > 1:
                for item in items:
                    self._answer([item])
                return
            items[0].result.set_exception(_said(error, items[0].task))
            return
        for item, answer in zip(items, found, strict=True):
            if answer.task.view != item.view:
                self._again(item, answer.task.view)
                continue
            try:
                item.result.set_result((answer.task, answer.probabilities))
            except ValueError as error:  # logits that are not finite
                item.result.set_exception(Unanswered(str(error)))

    def _compute(self, items: list[Item]) -> list[Any]:
        shown = {id(item.image): item.image for item in items}
        place = {key: i for i, key in enumerate(shown)}
        asked = [(place[id(item.image)], item.task) for item in items]
        return self._backbone.answer(list(shown.values()), asked)

    def _again(self, item: Item, view: StoredView) -> None:
        """Reads an item's image as its new task wants it, and answers it."""
        try:
            item.image, item.view = item.read(view), view
        except Unanswered as error:
            item.result.set_exception(error)
            return
        self._answer([item])


def _said(error: Exception, task: str) -> Unanswered:
    """Returns what the client is told; what it is not told goes to the log."""
    if isinstance(error, KeyError):
        return Unanswered(f'there is no task {task!r}')
    _LOG.error('a batch failed', exc_info=error)
    return Unanswered('internal error')
