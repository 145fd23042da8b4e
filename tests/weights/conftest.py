"""A tiny backbone in the table, and ways to run it."""

from dataclasses import replace

import numpy as np
import pytest

from jax_prompt.backbones import table
from jax_prompt.backbones.families import family_of
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core import colour

TINY = ViTConfig(width=32, depth=3, num_heads=2, mlp_dim=128, patch_size=8, image_size=32)


@pytest.fixture
def tiny():
    """The configuration of the tiny ViT."""
    return TINY


@pytest.fixture
def listed(monkeypatch):
    """Lists a backbone in the table for one test and returns its name."""

    def add(config=TINY, format='timm', tag='test', arch='vit_test', **entry):
        plain = table.Entry(
            name=f'{arch}.{tag}',
            config=config,
            format=format,
            mean=colour.HALF,
            std=colour.HALF,
            url='https://example.org/vit_test.pth',
            sha256=None,
            filename='vit_test.pth',
        )
        monkeypatch.setitem(table.ARCHITECTURES, arch, config)
        monkeypatch.setitem(table.ENTRIES, f'{arch}.{tag}', replace(plain, **entry))
        return f'{arch}.{tag}'

    return add


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)


@pytest.fixture
def features():
    """Runs a loaded tree: images [B, H, W, 3] to features [B, D]."""

    def run(tree, report, images):
        family = family_of(report.config)
        params = family.adapt(tree, report.config, ())
        return np.asarray(family.make(report.config, ()).apply({'params': params}, images))

    return run


@pytest.fixture
def written(tmp_path, tensors):
    """Writes the module's `tensors`, changed by a function, as a safetensors file."""
    from safetensors.numpy import save_file

    def write(change=None):
        content = dict(tensors) if change is None else change(dict(tensors))
        save_file(content, tmp_path / 'w.safetensors')
        return tmp_path / 'w.safetensors'

    return write
