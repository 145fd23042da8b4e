"""How the head starts, against timm and torch."""

import math

import jax
import numpy as np
import pytest

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier

WIDTH, CLASSES = 256, 400
CONFIG = ViTConfig(WIDTH, 1, 1, 8, 4, 8)


def head(**options):
    model = build_classifier(CONFIG, get_method('linear'), CLASSES, **options)
    return jax.tree.map(np.asarray, model.init_added(jax.random.key(0))['head'])


@pytest.mark.parametrize('std', [0.02, 0.01])
def test_kernel_has_the_spread_of_timms_truncated_normal(std):
    torch = pytest.importorskip('torch', reason='torch is not installed')
    theirs = torch.nn.init.trunc_normal_(torch.empty(CLASSES, WIDTH), std=std).numpy()
    own = head(head_std=std)
    # 102,400 values: a standard error of the spread is .2 %.
    assert own['kernel'].std() == pytest.approx(std, rel=0.01)
    assert theirs.std() == pytest.approx(std, rel=0.01)
    assert np.abs(theirs).max() > 3.5 * std  # it cuts at -2 and 2, not at two deviations
    assert np.abs(own['kernel']).max() > 3.5 * std
    assert not own['bias'].any()


def test_kaiming_is_that_of_vpts_code():
    torch = pytest.importorskip('torch', reason='torch is not installed')
    theirs = torch.empty(CLASSES, WIDTH)
    torch.nn.init.kaiming_normal_(theirs, a=0, mode='fan_out')
    own = head(head_init='kaiming')
    assert own['kernel'].std() == pytest.approx(float(theirs.std()), rel=0.02)
    np.testing.assert_allclose(own['bias'], -math.log((1 - 0.01) / 0.01), rtol=1e-6)
