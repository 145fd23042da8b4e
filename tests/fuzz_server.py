"""Hostile requests: `python tests/fuzz_server.py [COUNT]` sends 1,000 of them to a server in here.

Each is drawn from a seed: a damaged form or JSON, a damaged image, a wrong type, a body that stops.
The server has to answer each with a status below 500 and JSON that shows nothing of its inside, and
answer a good request after it. `tests/serve/test_fuzz.py` runs 200.
"""

import asyncio
import base64
import json
import sys
from collections import Counter
from typing import Any

import numpy as np
from small_asgi import call, form
from small_data import encode

_KINDS = (
    'application/json',
    'multipart/form-data; boundary=xyzzy',
    'multipart/form-data',
    'multipart/form-data; boundary=' + 'x' * 300,
    'image/svg+xml',
    'application/octet-stream',
    '',
)
_WORDS = (b'Traceback', b'site-packages', b'/tmp', b'.py', b'0x')
_TASKS = ('a', 'c', '', '../a', 'a\0', 'A' * 5000, '\u202ea', "a'; DROP TABLE", '%s%n', '{0}')


def _mutated(rng: np.random.Generator, data: bytes) -> bytes:
    """Returns bytes that are cut, flipped, doubled or filled with noise somewhere."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        way, place = rng.integers(5), int(rng.integers(len(out) + 1))
        if way == 0:
            del out[place:]
        elif way == 1 and place < len(out):
            out[place] ^= 1 << int(rng.integers(8))
        elif way == 2:
            out[place:place] = rng.bytes(int(rng.integers(1, 30)))
        elif way == 3:
            out[place : place + int(rng.integers(40))] = b''
        else:
            out += out[place : place + 200]
    return bytes(out)


def request(seed: int) -> tuple[list[bytes], str, bool]:
    """Draws a request: the chunks of its body, its content type, whether the client goes away."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*rng.integers(1, 40, 2), 3)).astype(np.uint8)
    image = encode(pixels, str(rng.choice(['PNG', 'JPEG', 'GIF', 'BMP', 'WEBP'])))
    if rng.random() < 0.7:
        image = _mutated(rng, image)
    task = str(rng.choice(_TASKS))
    if rng.random() < 0.5:
        body, kind = form(('image', image), ('task', task), ('top', int(rng.integers(-2, 9))))
    else:
        values: dict[str, Any] = {'image': base64.b64encode(image).decode(), 'task': task}
        values |= [{}, {'top': 1e400}, {'tasks': [task] * 100}, {'images': {}}][rng.integers(4)]
        body, kind = json.dumps(values).encode(), 'application/json'
    if rng.random() < 0.6:
        body = _mutated(rng, body)
    if rng.random() < 0.2:
        kind = str(rng.choice(_KINDS))
    cuts = sorted(rng.integers(0, len(body) + 1, int(rng.integers(3))))
    chunks = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    return chunks, kind, bool(rng.random() < 0.1)


async def send(app: Any, seeds: range, good: tuple[bytes, str]) -> Counter:
    """Sends hostile requests and checks each answer; returns how many had which status."""
    seen: Counter = Counter()
    for seed in seeds:
        chunks, kind, gone = request(seed)
        reply = await call(app, 'POST', '/v1/predict', chunks, gone, content_type=kind)
        seen[reply.status] += 1
        assert reply.status < 500 and reply.json['id'], (seed, reply)
        assert not [word for word in _WORDS if word in reply.body], (seed, reply)
        if seed % 20 == 0:
            body, kind = good
            reply = await call(app, 'POST', '/v1/predict', body, content_type=kind)
            assert reply.status == 200, (seed, reply)
    return seen


def main(count: int) -> None:
    """Sends so many requests and prints the statuses."""
    from small_serve import packed

    from jax_prompt.serve import Backbone
    from jax_prompt.serve.app import make_app
    from jax_prompt.serve.service import Service
    from jax_prompt.serve.settings import Settings

    backbone = Backbone('vit_micro', max_batch=1)
    backbone.add('a', packed('linear', 0))
    backbone.add('c', packed('vpt_deep', 0))
    backbone.warm()
    service = Service(backbone, Settings())
    service.ready = True
    good = form(('image', encode(np.zeros((9, 9, 3), np.uint8))), ('task', 'a'))
    try:
        print(dict(asyncio.run(send(make_app(service), range(count), good))))
        assert service.bodies.held == 0
    finally:
        service.close()


if __name__ == '__main__':
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
