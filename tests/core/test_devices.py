"""The dtype of products is chosen by what the device is."""

from types import SimpleNamespace

import jax
import pytest

from jax_prompt.core.devices import product_dtype


@pytest.mark.parametrize(
    ('device', 'dtype'),
    [
        ({'platform': 'tpu', 'device_kind': 'TPU v5 lite'}, 'bfloat16'),
        (
            {'platform': 'gpu', 'device_kind': 'NVIDIA H100', 'compute_capability': '9.0'},
            'bfloat16',
        ),
        ({'platform': 'gpu', 'device_kind': 'Tesla T4', 'compute_capability': '7.5'}, 'float32'),
    ],
)
def test_accelerators(monkeypatch, device, dtype):
    monkeypatch.setattr(jax, 'local_devices', lambda: [SimpleNamespace(**device)])
    found, reason = product_dtype()
    assert found == dtype and device['device_kind'] in reason


@pytest.mark.parametrize(
    ('flags', 'dtype'), [('avx512_bf16 avx2', 'bfloat16'), ('avx512_bf1 avx2', 'float32')]
)
def test_cpus(monkeypatch, flags, dtype):
    monkeypatch.setattr('pathlib.Path.exists', lambda path: True)
    monkeypatch.setattr('pathlib.Path.read_text', lambda path, **_: f'flags : {flags} sse\n')
    found, reason = product_dtype()
    assert found == dtype and 'AVX512-BF16' in reason
