"""Calibration on a backbone with stages: each stage is a source of its own."""

import jax
import numpy as np
import pytest
from tuned_swin import CONFIG, backbone_of

from jax_prompt.calibrate.spt import Calibration, prototypes
from jax_prompt.calibrate.tokens import BackboneTokens
from jax_prompt.core.spec import Cut
from jax_prompt.core.tree import stack_layers, unstack_layers
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import METHODS
from jax_prompt.model import build_classifier
from jax_prompt.train.optim import Optim
from jax_prompt.train.program import Program


@pytest.fixture(scope='module')
def source():
    classifier = build_classifier(CONFIG, METHODS['spt_deep'], 2, num_prompts=3)
    half = (0.5,) * 3
    program = Program(classifier, Optim(), 1, 1, Augment(), 32, half, half)
    return BackboneTokens(program, backbone_of())


@pytest.fixture(scope='module')
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


def test_each_stage_gives_the_tokens_that_enter_its_blocks(source, images):
    stages = source.stages()
    assert [*stages] == ['stage_00', 'stage_01'] and stages['stage_01'].stages() == {}
    seams = (*CONFIG.starts, 1, 3)
    cut = stack_layers(unstack_layers(source.params), seams)
    swin = type(source.program.classifier.backbone)(CONFIG, seams)
    x = images.astype(np.float32) / 127.5 - 1.0
    run = jax.jit(swin.apply, static_argnames='stop')
    for first, stage in zip(CONFIG.starts, stages.values(), strict=True):
        tokens = stage.embed(images)
        for layer in (0, 1):
            want = run({'params': cut}, x, stop=Cut(first + layer))
            np.testing.assert_allclose(stage.patches(tokens), want, atol=1e-5)
            tokens = stage.advance(tokens, layer)
        np.testing.assert_allclose(stage.collect_embedding(images), stage.embed(images), atol=1e-6)


@pytest.mark.parametrize('construction', ['mean', 'kmeans'])
def test_prototypes_of_stages_of_unlike_widths(source, images, construction):
    calibration = Calibration(construction=construction, batch_size=4, max_iter=2)
    key = jax.random.key(1)
    got, report = prototypes(source, images, 3, 4, calibration, key)
    assert got.shape == (4, 3, 16) and not got[:2, :, 8:].any() and got[2:, :, 8:].any()
    assert [*report['stages']] == ['stage_00', 'stage_01'] and report['seconds'] > 0
    tuner = source.program.classifier.tuner
    own = tuner.init(key, CONFIG.spec())
    layers = tuner.calibrated(own, got)['layers']
    np.testing.assert_array_equal(layers['stage_00']['prompts'], got[:2, :, :8])
    if construction == 'mean':  # of all tokens of the only batch, up to the last few
        order = np.asarray(
            jax.random.permutation(jax.random.split(jax.random.fold_in(key, 1))[0], 4)
        )
        tokens = np.asarray(source.stages()['stage_01'].embed(images[order])).reshape(-1, 16)
        window = len(tokens) // 3
        want = tokens[: 3 * window].reshape(3, window, 16).mean(axis=1)
        np.testing.assert_allclose(got[2], want, atol=1e-5)
    else:
        shallow, _ = prototypes(source, images, 3, 1, calibration, key)
        assert shallow.shape == (1, 3, 8)
    with pytest.raises(ValueError, match='num_layers=5; allowed: 1 to the 4 blocks'):
        prototypes(source, images, 3, 5, calibration, key)
