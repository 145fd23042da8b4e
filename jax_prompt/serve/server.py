"""Runs the server: warm-up while it listens already, and a drain at SIGTERM.

From the signal on no connection is accepted. Requests that were accepted are answered, for at most
`drain_s` seconds; then the process ends with exit code 0. A second signal ends it at once.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator
from typing import Any

from jax_prompt.core.failure import Failure
from jax_prompt.serve.app import make_app
from jax_prompt.serve.service import Service

_LOG = logging.getLogger(__name__)


def serve(service: Service, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
      service: what is served; closed at the end.
      host: address to listen at.
      port: TCP port; 0: any that is free, which the log names.

    Raises:
      Failure: the warm-up fails.
      OSError: the port can't be had.
    """
    try:
        asyncio.run(_serve(service, host, port))
    finally:
        service.close()
        started, answered = (service.metrics.value(name) for name in ('started', 'answered'))
        _LOG.info('%d requests came in, %d were answered', started, answered)


async def _serve(service: Service, host: str, port: int) -> None:
    import uvicorn

    settings = service.settings
    config = uvicorn.Config(
        make_app(service),
        host=host,
        port=port,
        lifespan='off',
        log_level='warning',
        access_log=False,
        server_header=False,
        limit_concurrency=settings.max_connections,
        timeout_graceful_shutdown=int(settings.drain_s) or 1,
        h11_max_incomplete_event_size=64 * 1024,
    )
    socket = config.bind_socket()
    server = _with_signals(uvicorn.Server)(config)
    server.service = service
    _LOG.info('listening at %s:%d', *socket.getsockname()[:2])
    warming = asyncio.create_task(asyncio.to_thread(service.warm))
    failed: list[BaseException] = []

    def warmed(task: Any) -> None:
        if task.cancelled():
            return
        if task.exception():
            failed.append(task.exception())
            server.should_exit = True
        else:
            _LOG.info('ready: %d tasks', len(service.backbone.tasks))

    warming.add_done_callback(warmed)
    await server.serve(sockets=[socket])
    await asyncio.gather(warming, return_exceptions=True)
    if failed:
        raise Failure(f'the server did not get ready: {failed[0]}') from failed[0]


def _with_signals(kind: type) -> type:
    """Returns uvicorn's server with the drain of this file in the place of its own signals.

    Its own raises a signal once more after the drain, so that a clean end would look like a kill.
    """

    class Server(kind):  # type: ignore[misc, valid-type]
        service: Service

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            loop, kinds = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
            for number in kinds:
                loop.add_signal_handler(number, self.drain)
            try:
                yield
            finally:
                for number in kinds:
                    loop.remove_signal_handler(number)

        def drain(self) -> None:
            self.force_exit, self.service.draining = self.should_exit, True
            self.should_exit = True
            _LOG.info('draining')

    return Server
