"""Hostile requests, drawn from seeds; `python tests/fuzz_server.py` sends more."""

import asyncio

import pytest
from fuzz_server import send
from small_asgi import form

from jax_prompt.serve.app import make_app


@pytest.mark.filterwarnings('ignore')  # Pillow warns of what it finds in damaged files
def test_hostile_requests_are_answered_and_say_nothing(make_service, files):
    service = make_service()
    seen = asyncio.run(
        send(make_app(service), range(200), form(('image', files[0]), ('task', 'a')))
    )
    assert sum(seen.values()) == 200 and {200, 400, 422} <= seen.keys()
    assert service.bodies.held == 0 and service._pending == 0
