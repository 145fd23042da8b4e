"""Reads the body of a request: within bounds, and cut off as soon as it passes them."""

import asyncio
import base64
import binascii
import json
from typing import Any, NamedTuple

from jax_prompt.core.printable import printable
from jax_prompt.serve.refused import Refused
from jax_prompt.serve.settings import Settings

_MOST_NAME = 200
_MOST_TOP = 1000


class Asked(NamedTuple):
    """What a request asks for.

    Attributes:
      images: (name, bytes) of each image file.
      tasks: names of the tasks, each of which answers for every image.
      top: number of classes to tell.
    """

    images: tuple[tuple[str, bytes], ...]
    tasks: tuple[str, ...]
    top: int


class Bodies:
    """Reads bodies; counts what all requests hold together.

    Args:
      settings: the bounds.
    """

    def __init__(self, settings: Settings):
        self._settings, self.held = settings, 0

    async def read(self, request: Any, most_mb: float) -> bytearray:
        """Reads a body; `release` it when it is done with.

        Raises:
          Refused: it is too large, too many are held, or it does not come in time.
        """
        most, declared = int(most_mb * 1e6), request.headers.get('content-length', '0')
        if not declared.isascii() or not declared.isdigit():
            raise Refused(400, 'content-length is no number')
        if len(declared) > 12 or int(declared) > most:
            raise Refused(413, f'the body is larger than {most_mb:g} MB')
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                async for chunk in request.stream():
                    body += chunk
                    self.held += len(chunk)
                    if len(body) > most:
                        raise Refused(413, f'the body is larger than {most_mb:g} MB')
                    if self.held > self._settings.max_bodies_mb * 1e6:
                        raise Refused(429, 'too many bodies are held', 1)
        except TimeoutError:
            self.release(body)
            raise Refused(408, 'the body did not come in time') from None
        except BaseException:
            self.release(body)
            raise
        return body

    def release(self, body: bytearray) -> None:
        """Counts a body as gone."""
        self.held -= len(body)


async def parse(request: Any, body: bytearray, settings: Settings) -> Asked:
    """Reads what a body asks for.

    Args:
      request: its headers say what it is.
      body: of multipart/form-data or application/json.
      settings: the bounds.

    Raises:
      Refused: it is not understood.
    """
    kind = request.headers.get('content-type', '').partition(';')[0].strip().lower()
    if kind == 'multipart/form-data':
        images, tasks, top = await _from_form(request, body, settings)
    elif kind == 'application/json':
        images, tasks, top = _from_json(body)
    else:
        raise Refused(415, 'send multipart/form-data or application/json')
    if not images or not tasks:
        raise Refused(400, 'give at least one image and one task')
    if len(images) * len(tasks) > settings.max_images:
        raise Refused(
            413, f'{len(images)} images for {len(tasks)} tasks; at most {settings.max_images}'
        )
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= _MOST_TOP:
        raise Refused(400, f'top is not a whole number of 1 to {_MOST_TOP}')
    named = [(printable(name[:_MOST_NAME]), data) for name, data in images]
    return Asked(tuple(named), tuple(dict.fromkeys(tasks)), top)


async def _from_form(request: Any, body: bytearray, settings: Settings) -> tuple[list, list, Any]:
    from starlette.exceptions import HTTPException
    from starlette.requests import Request

    async def replay() -> dict[str, Any]:
        return {'type': 'http.request', 'body': bytes(body), 'more_body': False}

    most = {'max_files': settings.max_images, 'max_fields': settings.max_images + 8}
    copy = Request({**request.scope, 'app': None}, replay)
    try:
        async with copy.form(**most, max_part_size=64 * 1024) as form:
            fields = form.multi_items()
            files = [value for name, value in fields if name == 'image' and hasattr(value, 'read')]
            images = [(file.filename or 'image', await file.read()) for file in files]
            texts = [(name, value) for name, value in fields if isinstance(value, str)]
    except (HTTPException, ValueError, KeyError, LookupError, UnicodeError) as error:
        raise Refused(400, 'the form is damaged, or has too many parts') from error
    unknown = [name for name, value in fields if name not in ('image', 'task', 'top')]
    if unknown or len(images) + len(texts) < len(fields) or 'image' in dict(texts):
        raise Refused(400, "a form has files 'image', and texts 'task' and 'top'")
    tops = [value for name, value in texts if name == 'top'] or ['5']
    top = int(tops[0]) if tops[0].isascii() and tops[0].isdigit() and len(tops[0]) < 6 else 0
    return images, [value for name, value in texts if name == 'task'], top


def _from_json(body: bytearray) -> tuple[list, list, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, 'the body is no JSON') from error
    if not isinstance(values, dict) or values.keys() - {'image', 'images', 'task', 'tasks', 'top'}:
        raise Refused(400, 'the JSON is an object of image or images, task or tasks, and top')
    images, tasks = (
        values.get(f'{name}s', [values[name]] if name in values else [])
        for name in ('image', 'task')
    )
    for name, found in (('images', images), ('tasks', tasks)):
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise Refused(400, f'{name} are not a list of texts')
    try:
        decoded = [base64.b64decode(image, validate=True) for image in images]
    except (binascii.Error, ValueError) as error:
        raise Refused(400, 'an image is no base64') from error
    return [(f'image {i}', data) for i, data in enumerate(decoded)], tasks, values.get('top', 5)
