"""A run as training leaves it, with noise in the place of training."""

import pytest
from small_pack import noisy_run


@pytest.fixture
def make_run(make_config):
    """Returns a function that makes a finished run of a method, in memory."""

    def make(method, **changes):
        return noisy_run(make_config(method=method, **{'image_size': 16, 'weights': '', **changes}))

    return make
