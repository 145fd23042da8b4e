"""Bias: which leaves are biases, in the text's form and in the released code's."""

import jax
import pytest
from tuned_vit import SPEC

from jax_prompt.backbones.resnet_config import ResNetConfig
from jax_prompt.backbones.swin_config import SwinConfig
from jax_prompt.tuners.bias import Biases

PATHS = (
    'stem_norm/bias',
    'stem_norm/mean',
    'blocks_00_02/attn/qkv/bias',
    'blocks_00_02/attn/qkv/kernel',
    'blocks_00_02/attn/relative_bias',
    'merge_02/norm/bias',
)


@pytest.mark.parametrize(
    ('config', 'faithful', 'trained'),
    [
        (SwinConfig(8, (2, 2), (1, 2), 4, 4, 32), False, (0, 2, 5)),
        (SwinConfig(8, (2, 2), (1, 2), 4, 4, 32), True, (0, 2, 4, 5)),
        (ResNetConfig('basic', (1, 1), 16), False, (0, 2, 5)),
        (ResNetConfig('basic', (1, 1), 16), True, ()),
    ],
)
def test_which_leaves_train(config, faithful, trained):
    tuner = Biases(faithful)
    assert tuner.init(jax.random.key(0), config.spec()) == {}
    own = [path for path in PATHS if tuner.trains(path, config.spec())]
    assert own == [PATHS[i] for i in trained]


def test_the_released_form_on_a_vit_is_refused():
    with pytest.raises(ValueError, match=r'faithful is True; .* this is a vit'):
        Biases(faithful=True).init(jax.random.key(0), SPEC)
