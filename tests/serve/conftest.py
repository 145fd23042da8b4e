"""Tiny images, and a service of tiny tasks."""

import numpy as np
import pytest
from small_data import encode
from small_serve import packed

from jax_prompt.packs.file import write_pack
from jax_prompt.serve import Backbone
from jax_prompt.serve.service import Service
from jax_prompt.serve.settings import Settings

TOKEN = 'a-token-of-sixteen-characters'


@pytest.fixture(scope='session')
def shown():
    """Five images [5, 16, 16, 3] uint8."""
    return np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), np.uint8)


@pytest.fixture(scope='session')
def files(shown):
    """The same as PNG files, and one of 40 x 30 pixels."""
    other = np.random.default_rng(2).integers(0, 256, (30, 40, 3), np.uint8)
    return [encode(image) for image in [*shown, other]]


@pytest.fixture(scope='session')
def backbone():
    """A warm backbone with the tasks a, b (linear) and c (VPT)."""
    made = Backbone('vit_micro', max_batch=4, capacity=2)
    for name, seed in (('a', 0), ('b', 1)):
        made.add(name, packed('linear', seed, 3))
    made.add('c', packed('vpt_deep', 0))
    made.warm()
    return made


@pytest.fixture
def make_service(backbone):
    """Returns a function that makes a service which is ready, of the backbone or another."""
    made = []

    def make(own=None, packs=None, **settings):
        token = TOKEN if settings.get('allow_upload') else ''
        service = Service(own or backbone, Settings(**settings), packs, token)
        service.ready = True
        made.append(service)
        return service

    yield make
    for service in made:
        service.close()


@pytest.fixture(scope='session')
def make_pack(tmp_path_factory):
    """Returns a function that writes a pack and gives its bytes."""
    from small_serve import tuned

    folder = tmp_path_factory.mktemp('packs')

    def make(*args, **changes):
        write_pack(tuned(*args, **changes), folder / 'pack')
        return (folder / 'pack').read_bytes()

    return make
