"""The routes of the server, as an ASGI application of Starlette.

    POST   /v1/predict       images and tasks in, the most probable classes out
    GET    /v1/tasks         what is served
    PUT    /v1/tasks/NAME    a pack, the body, becomes the task NAME (off unless allowed)
    DELETE /v1/tasks/NAME    the task goes (likewise)
    GET    /healthz          the process is there
    GET    /readyz           it answers
    GET    /metrics          what it counts, for Prometheus

An answer never shows a traceback, a path or a token. Each has the request's id, from its header
X-Request-Id or made here.
"""

import asyncio
import hmac
import logging
import re
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from jax_prompt.packs.file import Pack, read_pack
from jax_prompt.serve.body import parse
from jax_prompt.serve.refused import Refused
from jax_prompt.serve.service import Service
from jax_prompt.serve.settings import is_name

_LOG = logging.getLogger(__name__)
_ID = re.compile(r'[\x21-\x7e]{1,128}')


def make_app(service: Service) -> Any:
    """Returns the ASGI application.

    Raises:
      ModuleNotFoundError: the extra 'serve' is not installed.
    """
    import python_multipart  # noqa: F401 - Starlette asks for it only at the first form
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def healthz(request: Any) -> Any:
        return PlainTextResponse('ok\n')

    async def readyz(request: Any) -> Any:
        ready = service.ready and not service.draining
        return PlainTextResponse('ready\n' if ready else 'not ready\n', 200 if ready else 503)

    async def metrics(request: Any) -> Any:
        return PlainTextResponse(service.metrics.text(), media_type='text/plain; version=0.0.4')

    routes = [
        Route('/healthz', healthz),
        Route('/readyz', readyz),
        Route('/metrics', metrics),
        Route('/v1/predict', _endpoint(service, '/v1/predict', _predict), methods=['POST']),
        Route('/v1/tasks', _endpoint(service, '/v1/tasks', _list), methods=['GET']),
        Route(
            '/v1/tasks/{name}',
            _endpoint(service, '/v1/tasks/NAME', _change),
            methods=['PUT', 'DELETE'],
        ),
    ]
    return Starlette(routes=routes)


Handler = Callable[[Service, Any], Awaitable[tuple[int, dict[str, Any]]]]


def _endpoint(service: Service, route: str, handler: Handler) -> Callable[[Any], Awaitable[Any]]:
    """Wraps a handler: every way it ends becomes JSON with the request's id, and is counted."""
    from starlette.requests import ClientDisconnect
    from starlette.responses import JSONResponse

    async def endpoint(request: Any) -> Any:
        start, given = time.monotonic(), request.headers.get('x-request-id', '')
        name = given if _ID.fullmatch(given) else secrets.token_hex(8)
        headers = {'x-request-id': name}
        service.metrics.count('started')
        try:
            status, content = await handler(service, request)
        except Refused as error:
            status, content = error.status, {'error': str(error)}
            if error.retry_s is not None:
                headers['retry-after'] = str(error.retry_s)
            if status in (408, 413):  # what is left of the body is not read
                headers['connection'] = 'close'
        except ClientDisconnect:
            status, content = 400, {'error': 'the client went away'}
        except Exception:
            _LOG.exception('a request failed')
            status, content = 500, {'error': 'internal error'}
        service.metrics.count('answered')
        service.metrics.answered(route, status, time.monotonic() - start)
        return JSONResponse({'id': name, **content}, status, headers)

    return endpoint


async def _predict(service: Service, request: Any) -> tuple[int, dict[str, Any]]:
    body = await service.bodies.read(request, service.settings.max_body_mb)
    try:
        asked = await parse(request, body, service.settings)
        results = await service.predict(asked)
    finally:
        service.bodies.release(body)
    failed = all('error' in one for one in results)
    return 422 if failed else 200, {'results': results}


async def _list(service: Service, request: Any) -> tuple[int, dict[str, Any]]:
    tasks = sorted(service.backbone.tasks.values())
    shown = [
        {'name': t.name, 'method': t.method, 'pack': t.sha256[:16], 'classes': list(t.classes)}
        for t in tasks
    ]
    return 200, {'backbone': service.backbone.label, 'tasks': shown}


async def _change(service: Service, request: Any) -> tuple[int, dict[str, Any]]:
    """Puts or deletes a task, for who has the token."""
    if not service.settings.allow_upload:
        raise Refused(403, 'tasks are not changed over HTTP here')
    given = request.headers.get('authorization', '').encode()
    if not hmac.compare_digest(given, f'Bearer {service.token}'.encode()):
        raise Refused(401, 'the token is missing or wrong')
    name = request.path_params['name']
    if not is_name(name):
        raise Refused(400, 'a task is named with letters, digits, dot, dash and underscore')
    if request.method == 'DELETE':
        if name not in service.backbone.tasks:
            raise Refused(404, f'there is no task {name!r}')
        await asyncio.to_thread(service.backbone.remove, name)
        return 200, {'deleted': name}
    body = await service.bodies.read(request, service.settings.max_pack_mb)
    try:
        pack = await asyncio.to_thread(_read, body)
        task = await asyncio.to_thread(_serve, service, name, pack)
    except (ValueError, OSError) as error:
        _LOG.warning('an uploaded pack is left out: %s', error)
        raise Refused(422, 'the pack is damaged or does not fit this backbone') from error
    finally:
        service.bodies.release(body)
    return 200, {'task': name, 'pack': task.sha256[:16], 'classes': list(task.classes)}


def _serve(service: Service, name: str, pack: Pack) -> Any:
    task = service.backbone.add(name, pack)
    service.backbone.warm()
    return task


def _read(body: bytearray) -> Pack:
    """Reads a pack from a body, by way of a file without a name of the client's."""
    with tempfile.TemporaryDirectory(prefix='jax_prompt_') as folder:
        path = Path(folder) / 'pack'
        path.write_bytes(body)
        return read_pack(path)
