"""A folder of packs: a file NAME.safetensors is the task NAME.

The folder is looked at every few seconds. A new file is a new task, a changed one replaces its task
between two batches, and the task of a file that is gone goes. A file that is no whole pack changes
nothing; the log says why, once, and it is read again when it changes.
"""

import logging
import threading
from pathlib import Path

from jax_prompt.core.printable import printable
from jax_prompt.packs.file import read_pack
from jax_prompt.serve.backbone import Backbone
from jax_prompt.serve.metrics import Metrics
from jax_prompt.serve.settings import is_name

_LOG = logging.getLogger(__name__)
_SUFFIX = '.safetensors'
Sign = tuple[int, int, int]


class Folder:
    """Keeps a backbone's tasks as the files of a folder are.

    Args:
      path: the folder.
      backbone: gets the tasks.
      metrics: counts packs that are not read.

    Raises:
      ValueError: `path` is no folder.
    """

    def __init__(self, path: Path, backbone: Backbone, metrics: Metrics):
        if not path.is_dir():
            raise ValueError(f'{path} is no folder; give the folder of the packs')
        self._path, self._backbone, self._metrics = path, backbone, metrics
        self._seen: dict[str, Sign] = {}
        self._served: set[str] = set()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def update(self) -> list[str]:
        """Brings the tasks in line with the files.

        Returns:
          Names of the tasks that are new or changed.
        """
        files = self._files()
        changed = []
        for name, (path, sign) in files.items():
            if self._seen.get(name) == sign:
                continue
            self._seen[name] = sign
            try:
                self._backbone.add(name, read_pack(path))
            except (ValueError, OSError) as error:
                self._metrics.count('bad_packs')
                _LOG.warning('%s is left out: %s', printable(path.name), printable(str(error)))
                continue
            self._served.add(name)
            changed.append(name)
            _LOG.info('task %s is served', name)
        for name in self._seen.keys() - files.keys():
            del self._seen[name]
            if name in self._served:
                self._served.discard(name)
                if name in self._backbone.tasks:
                    self._backbone.remove(name)
                    _LOG.info('task %s is gone', name)
        return changed

    def watch(self, seconds: float) -> None:
        """Looks every so many seconds, in a thread, until `close`."""

        def work() -> None:
            while not self._stop.wait(seconds):
                try:
                    if self.update():
                        self._backbone.warm()
                except Exception:  # the folder may be gone for a while
                    _LOG.exception('the folder of packs was not read')

        self._thread = threading.Thread(target=work, name='packs', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _files(self) -> dict[str, tuple[Path, Sign]]:
        found = {}
        for path in sorted(self._path.iterdir()):
            name = path.name.removesuffix(_SUFFIX)
            if path.name.startswith('.') or name == path.name or not path.is_file():
                continue
            if not is_name(name):
                if name not in self._seen:
                    _LOG.warning('%s names no task; rename the file', printable(path.name))
                    self._seen[name] = (0, 0, 0)
                found[name] = (path, (0, 0, 0))
                continue
            status = path.stat()
            found[name] = (path, (status.st_ino, status.st_size, status.st_mtime_ns))
        return found
