"""The benchmark against PyTorch: both sides compute the same, at sizes that take no time."""

import importlib
import importlib.util
import json
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.backbones.resnet_config import ResNetConfig
from jax_prompt.backbones.swin_config import SwinConfig
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.tree import EXEMPT
from jax_prompt.nn import products

ROOT = Path(__file__).resolve().parents[2]
BACKBONES = {
    'vit': ViTConfig(16, 2, 2, 32, 8, 32),
    # Shifted windows, and a last stage of one window.
    'swin': SwinConfig(8, (2, 2), (1, 2), 4, 4, 32),
    'resnet': ResNetConfig('bottleneck', (2, 1), 32, width=8),
}
CASES = [
    ('vit', 'vpt_deep'),
    ('swin', 'vpt_deep'),
    ('swin', 'lion'),
    ('resnet', 'vpt_pad'),
    ('resnet', 'lion'),
]
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec('torch') is None, reason='PyTorch, the rival, is not installed'
)


@pytest.fixture
def bench(monkeypatch):
    """Returns (name -> module of the benchmark); settings of JAX and torch are put back."""
    monkeypatch.syspath_prepend(str(ROOT / 'launch' / 'speed'))
    precision = jax.config.jax_default_matmul_precision
    yield importlib.import_module
    jax.config.update('jax_default_matmul_precision', precision)


def _torch_side(bench):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # those of importing other people's code
        return bench('bench_torch').TorchSide


def _setup(bench, name, method, **options):
    """Returns (config, problem, settings) of a small comparison."""
    problems, config = bench('bench_problem'), BACKBONES[name]
    settings = {
        **{'method': method, 'options': problems.options_of(method, 3, 5), 'exempt': EXEMPT},
        **{'lr': 0.05, 'weight_decay': 1e-2, 'momentum': 0.9, 'threads': 1, 'micro_batch': 0},
        **{'dtype': 'float32', 'precision': 'float32', 'cached_rival': False, **options},
    }
    problem = problems.make_problem(config, method, settings['options'], 4, 5)
    return config, problem, settings


@needs_torch
@pytest.mark.parametrize(('name', 'method'), CASES)
def test_both_sides_compute_the_same(bench, name, method):
    config, problem, settings = _setup(bench, name, method)
    sides = {
        'jax': bench('bench_jax').JaxSide(config, problem, settings),
        'torch': _torch_side(bench)(config, problem, settings, False),
    }
    before = sides['torch'].evaluate()
    losses = {k: [float(side.train_step()) for _ in range(4)] for k, side in sides.items()}
    check = bench('speed').check_losses
    check({name: {'losses': values} for name, values in losses.items()}, 1e-4)
    np.testing.assert_allclose(losses['torch'][0], before, rtol=1e-5)
    assert len(set(losses['jax'])) == 4  # it trains
    if method == 'lion':  # no solve ends before its time
        facts = sides['jax'].facts()
        assert facts['p1_forward_steps'] == facts['p1_backward_steps'] == 5
        other = _torch_side(bench)(config, problem, {**settings, 'cached_rival': True}, False)
        np.testing.assert_allclose([float(other.train_step()) for _ in range(4)], losses['torch'])


def test_other_losses_are_refused(bench):
    check = bench('speed').check_losses
    with pytest.raises(ValueError, match='torch computes other losses than jax'):
        check({'jax': {'losses': [2.0, 1.0]}, 'torch': {'losses': [2.0, 1.001]}}, 1e-4)


def test_work_is_that_of_a_closed_form(bench):
    x, kernel = jnp.ones((2, 5, 7)), jnp.ones((7, 7))

    def twice(x):
        return jax.lax.scan(lambda y, _: (y @ kernel, None), x, length=2)[0]

    def count(f, *args):
        return bench('bench_flops').work(jax.jit(f).trace(*args).jaxpr.jaxpr)

    product = 2 * 2 * 5 * 7 * 7
    assert count(twice, x) == 2 * product
    # Forward as above; backward once more each, as the kernel has no gradient.
    assert count(jax.grad(lambda x: jnp.sum(twice(x) ** 2)), x) == 4 * product
    half = x.astype(jnp.bfloat16)  # the backward pass of `product` names the kernel's gradient too
    grad = jax.grad(lambda x: jnp.sum(products.product(x, kernel).astype(jnp.float32)))
    assert count(grad, half) == product
    assert count(lambda x: jax.lax.cond(x[0, 0, 0] > 0, twice, jnp.sin, x), x) == 2 * product


def test_work_of_a_convolution_and_of_a_loop_without_end(bench):
    image, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    form = ('NHWC', 'HWIO', 'NHWC')
    convolve = partial(jax.lax.conv_general_dilated, window_strides=(2, 2), padding='SAME')

    def count(f, *args):
        return bench('bench_flops').work(jax.jit(f).trace(*args).jaxpr.jaxpr)

    work = count(partial(convolve, dimension_numbers=form), image, kernel)
    assert work == 2 * (2 * 4 * 4 * 4) * (3 * 3 * 3)

    def solve(x):
        return jax.lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y @ y, x)

    assert count(solve, jnp.ones((3, 3))) is None


def test_a_side_is_a_process_that_answers(bench, tmp_path):
    out = tmp_path / 'figures.json'
    command = [
        sys.executable,
        str(ROOT / 'launch' / 'speed' / 'speed.py'),
        'step',
        '--arch',
        'vit_micro',
    ]
    command += ['--batch', '2', '--prompts', '2', '--turns', '1', '--steps', '1', '--rival']
    subprocess.run([*command, '--out', str(out)], check=True, capture_output=True)
    side = json.loads(out.read_text())['sides']['jax_save']
    assert side['work'] > 0
    assert len(side['losses']) == 5 and side['peak_mb'] >= side['before_mb']
