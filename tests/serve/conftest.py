"""Tiny images."""

import numpy as np
import pytest


@pytest.fixture(scope='session')
def shown():
    """Five images [5, 16, 16, 3] uint8."""
    return np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), np.uint8)
