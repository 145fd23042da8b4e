"""Calls an ASGI application without a network: a body goes in as chunks, an answer comes out."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

BOUNDARY = 'xyzzy'


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    read: int  # chunks of the body that the application read

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def call(
    app: Any,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] | AsyncIterator[bytes] = b'',
    gone: bool = False,
    **headers: str,
) -> Reply:
    """Calls the application; where `gone`, the client leaves in place of the last chunk."""
    chunks = aiter(body) if hasattr(body, '__aiter__') else None
    waiting = [] if chunks else [body] if isinstance(body, bytes) else list(body)
    read = 0

    async def receive():
        nonlocal read
        read += 1
        if chunks:
            piece = await anext(chunks, None)
            return {'type': 'http.request', 'body': piece or b'', 'more_body': piece is not None}
        if gone and len(waiting) <= 1:
            return {'type': 'http.disconnect'}
        if not waiting:
            await asyncio.sleep(3600)
        piece = waiting.pop(0)
        return {'type': 'http.request', 'body': piece, 'more_body': bool(waiting)}

    sent: list[dict] = []

    async def send(message):
        sent.append(message)

    named = [(k.replace('_', '-').encode(), v.encode('latin-1')) for k, v in headers.items()]
    scope = {
        'type': 'http',
        'http_version': '1.1',
        'method': method,
        'scheme': 'http',
        'path': path,
        'raw_path': path.encode(),
        'query_string': b'',
        'headers': named,
        'client': ('127.0.0.1', 1),
        'server': ('127.0.0.1', 2),
    }
    await app(scope, receive, send)
    start = sent[0]
    found = {k.decode(): v.decode() for k, v in start['headers']}
    return Reply(start['status'], found, b''.join(m.get('body', b'') for m in sent[1:]), read)


def form(*parts: tuple[str, Any]) -> tuple[bytes, str]:
    """Returns a multipart body and its content type; a value of bytes is a file."""
    out = []
    for i, (name, value) in enumerate(parts):
        file = f'; filename="{i}.png"' if isinstance(value, bytes) else ''
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        data = value if isinstance(value, bytes) else str(value).encode()
        out.append(head.encode() + data + b'\r\n')
    return b''.join(
        [*out, f'--{BOUNDARY}--\r\n'.encode()]
    ), f'multipart/form-data; boundary={BOUNDARY}'


async def post(app: Any, *parts: tuple[str, Any], **headers: str) -> Reply:
    """Posts a form to /v1/predict."""
    body, kind = form(*parts)
    return await call(app, 'POST', '/v1/predict', body, content_type=kind, **headers)
