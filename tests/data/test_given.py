"""Images handed over as arrays: what answers wrongly is refused at the public door."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import drawn

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.tree import split
from jax_prompt.data.given import check_images
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import METHODS
from jax_prompt.model import build_classifier
from jax_prompt.train.optim import Optim
from jax_prompt.train.program import Program

GOOD = np.arange(2 * 8 * 8 * 3, dtype=np.int64).reshape(2, 8, 8, 3) % 256


@pytest.mark.parametrize(
    ('images', 'message'),
    [
        (GOOD, r'int64 of shape \[2, 8, 8, 3\]; allowed: .*astype\(np\.uint8\)'),
        (GOOD.astype(np.float32), 'values are 0 to 255: divide by 255'),
        (GOOD / 127.5 - 1, 'values are -1 to 1: the program normalises'),
        (GOOD / np.nan, 'NaN'),
        (GOOD[..., :1].astype(np.uint8), 'repeat grey'),
        (GOOD[..., [0, 1, 2, 0]].astype(np.uint8), 'three colours'),
        (GOOD.transpose(0, 3, 1, 2).astype(np.uint8), 'put colours last'),
        (GOOD[0].astype(np.uint8), r'images\[None\]'),
        (GOOD[..., 0].astype(np.uint8), r'8\]; allowed: .*normalised; grey images get three'),
        (GOOD[0].T.astype(np.uint8), r'images\.transpose\(1, 2, 0\)\[None\]; grey'),
        (GOOD[:, :4].astype(np.uint8), 'square'),
        (GOOD.astype(bool), 'bool'),
    ],
)
def test_wrong_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        check_images(images)


def test_the_program_checks_what_it_is_given():
    classifier = build_classifier(ViTConfig(8, 1, 2, 16, 4, 8), METHODS['linear'], 2)
    params = drawn(classifier.init, jax.random.key(0))
    trainable, frozen = split(params, lambda path: path.startswith('head'))
    program = Program(classifier, Optim('sgd'), 1, 1, Augment(), 8, (0.5,) * 3, (0.5,) * 3)
    want = program.logits(trainable, frozen, GOOD.astype(np.uint8))
    got = program.logits(trainable, frozen, jnp.asarray(GOOD / 255, jnp.float32))
    np.testing.assert_allclose(got, want, atol=1e-6)
    for wrong in (GOOD, GOOD.astype(np.float32)):
        with pytest.raises(ValueError, match='images are'):
            program.logits(trainable, frozen, wrong)
    with pytest.raises(ValueError, match='images are'):
        jax.eval_shape(program.logits, trainable, frozen, GOOD.astype(np.int32))
