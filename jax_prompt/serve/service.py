"""What a server does with a request, whatever carries it: from bytes to the classes."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jax_prompt.data.transforms import StoredView
from jax_prompt.serve.backbone import Backbone
from jax_prompt.serve.batcher import Batcher, Item
from jax_prompt.serve.body import Asked, Bodies
from jax_prompt.serve.metrics import Metrics
from jax_prompt.serve.pictures import decode_checked, reader
from jax_prompt.serve.refused import Refused, Unanswered
from jax_prompt.serve.settings import Settings
from jax_prompt.serve.task import Task
from jax_prompt.serve.watch import Folder


class Service:
    """A backbone, its line of images, and what is counted.

    Args:
      backbone: answers.
      settings: the bounds.
      packs: the folder of packs that is watched; None: none is.
      token: who gives it may put and delete tasks; '': nobody may.
    """

    def __init__(
        self,
        backbone: Backbone,
        settings: Settings,
        packs: Path | None = None,
        token: str = '',
    ):
        if settings.allow_upload and len(token) < 16:
            raise ValueError('uploads need a token of 16 characters or more')
        self.backbone, self.settings, self.token = backbone, settings, token
        self.metrics, self.bodies = Metrics(), Bodies(settings)
        self.folder = Folder(packs, backbone, self.metrics) if packs else None
        self.ready = self.draining = False
        self._pending = 0  # images times tasks that were accepted and are not answered
        self._batcher = Batcher(backbone, settings.max_wait_ms, self.metrics)
        self._pool = ThreadPoolExecutor(settings.workers, 'decode')
        self.metrics.gauges |= {
            'queue_images': lambda: self._pending,
            'tasks': lambda: len(backbone.tasks),
            'body_bytes': lambda: self.bodies.held,
            'device_bytes': lambda: sum(backbone.device_bytes.values()),
            'ready': lambda: float(self.ready),
        }

    def warm(self) -> None:
        """Reads the packs and compiles all sizes; the service is ready after it."""
        if self.folder:
            self.folder.update()
        self.backbone.warm()
        if self.folder and self.settings.watch_s:
            self.folder.watch(self.settings.watch_s)
        self.ready = True

    def close(self) -> None:
        """Answers what was accepted, and ends all threads."""
        self.ready = False
        if self.folder:
            self.folder.close()
        self._batcher.close()
        self._pool.shutdown()
        self.metrics.close()

    async def predict(self, asked: Asked) -> list[dict[str, Any]]:
        """Answers a request.

        Returns:
          {'image', 'task', 'pack', 'predictions'} for each image and task, in order; 'error' in
          place of the last two where one image fails.

        Raises:
          Refused: no such task, not ready, too much is waiting, or it takes too long.
        """
        if not self.ready:
            raise Refused(503, 'not ready', 5)
        tasks = self.backbone.tasks
        missing = [name for name in asked.tasks if name not in tasks]
        if missing:
            raise Refused(404, f'there is no task {missing[0][:64]!r}')
        number = len(asked.images) * len(asked.tasks)
        if self._pending + number > self.settings.max_queue:
            raise Refused(429, 'too much is waiting', 1)
        self._pending += number
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                return await self._answer(asked, [tasks[name] for name in asked.tasks])
        except TimeoutError:
            raise Refused(504, f'no answer in {self.settings.timeout_s:g} s', 5) from None
        finally:
            self._pending -= number

    async def _answer(self, asked: Asked, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        deadline = time.monotonic() + self.settings.timeout_s
        images = await asyncio.gather(
            *(self._items(image, tasks, deadline) for image in asked.images)
        )
        waiting = [item for items in images for item in items if isinstance(item, Item)]
        self._batcher.submit(waiting)
        try:
            await asyncio.gather(
                *(asyncio.wrap_future(item.result) for item in waiting), return_exceptions=True
            )
        finally:
            for item in waiting:  # nobody waits for what is left of a request that ended
                item.result.cancel()
        out = []
        for (name, _), items in zip(asked.images, images, strict=True):
            for task, one in zip(tasks, items, strict=True):
                out.append({'image': name, 'task': task.name} | _told(one, asked.top))
        self.metrics.count('bad_images', sum('error' in one for one in out))
        return out

    async def _items(
        self, image: tuple[str, bytes], tasks: Sequence[Task], deadline: float
    ) -> list[Item | Unanswered]:
        """Decodes an image once, and resizes it for each view of the tasks once."""
        name, data = image
        most = self.settings.max_pixels
        views = list(dict.fromkeys(task.view for task in tasks))

        def read() -> dict[StoredView, np.ndarray]:
            pixels = decode_checked(data, name, most)
            return {view: view.resize(pixels) for view in views}

        try:
            shown = await asyncio.get_running_loop().run_in_executor(self._pool, read)
        except Unanswered as error:
            return [error] * len(tasks)
        make = partial(Item, read=reader(data, name, most), deadline=deadline)
        return [make(shown[task.view], task.name, task.view) for task in tasks]


def _told(item: Item | Unanswered, top: int) -> dict[str, Any]:
    """Returns what the client is told of an image for a task."""
    error = item if isinstance(item, Unanswered) else item.result.exception()
    if error is not None:
        return {'error': str(error)}
    assert isinstance(item, Item)
    task, probabilities = item.result.result()
    best = np.argsort(-probabilities, kind='stable')[:top]
    predictions = [{'class': task.classes[k], 'probability': float(probabilities[k])} for k in best]
    return {'pack': task.sha256[:16], 'predictions': predictions}
