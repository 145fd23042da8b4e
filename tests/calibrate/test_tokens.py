import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import drawn

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.calibrate.spt import Calibration, prototypes
from jax_prompt.calibrate.tokens import BackboneTokens, StreamedImages
from jax_prompt.core.spec import Cut
from jax_prompt.core.tree import stack_layers, unstack_layers
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import METHODS
from jax_prompt.model import build_classifier
from jax_prompt.train.optim import Optim
from jax_prompt.train.program import Program

CONFIG = ViTConfig(16, 3, 2, 32, 4, 8)


@pytest.fixture(scope='module')
def source():
    classifier = build_classifier(CONFIG, METHODS['spt_deep'], 2, num_prompts=3)
    params = drawn(classifier.init, jax.random.key(0))['backbone']
    half = (0.5,) * 3
    return BackboneTokens(Program(classifier, Optim(), 1, 1, Augment(), 8, half, half), params)


@pytest.fixture(scope='module')
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def test_tokens_are_those_that_enter_each_block(source, images):
    backbone, params = source.program.classifier.backbone, source.params
    x = images.astype(np.float32) / 127.5 - 1.0
    tokens = source.embed(images)
    for layer in range(3):
        seams = (*CONFIG.seams, *((layer,) if layer else ()))
        cut = stack_layers(unstack_layers(params), seams)
        want = type(backbone)(CONFIG, seams).apply({'params': cut}, x, stop=Cut(layer))
        np.testing.assert_allclose(tokens, want, atol=1e-5)
        np.testing.assert_array_equal(source.patches(tokens), tokens[:, 1:])
        tokens = source.advance(tokens, layer)


def test_the_embedding_is_taken_before_positions(source, images):
    embedding = source.collect_embedding(images)
    after = source.patches(source.embed(images))
    positions = source.params['pos_embed'][:, 1:]
    np.testing.assert_allclose(embedding + positions, after, atol=1e-6)
    assert np.abs(np.asarray(positions)).max() > 0


def test_streamed_images_give_the_prototypes_of_resident_ones(source, images):
    class Stream:
        def __len__(self):
            return len(images)

        def batches(self, order):
            for row in order:
                yield images[row], np.zeros(len(row))

    calibration = Calibration(construction='kmeans', batch_size=4, max_iter=3)
    key = jax.random.key(1)
    want, _ = prototypes(source, images, 3, 3, calibration, key)
    got, _ = prototypes(source, StreamedImages(Stream()), 3, 3, calibration, key)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert want.shape == (3, 3, 16)


def test_pooled_prototypes_equal_their_definition(source, images):
    calibration = Calibration(construction='mean', batch_size=6)
    got, report = prototypes(source, images, 5, 1, calibration, jax.random.key(1))
    order = np.asarray(jax.random.permutation(jax.random.split(jax.random.key(1))[0], 6))
    tokens = np.asarray(source.patches(source.embed(images[order]))).reshape(-1, 16)
    window = len(tokens) // 5  # floor(N B / P), the rest unused
    want = tokens[: 5 * window].reshape(5, window, 16).mean(axis=1)
    np.testing.assert_allclose(got[0], want, atol=1e-5)
    assert report['num_tokens'] == len(tokens)


def test_every_layer_has_its_own_prototypes(source, images):
    calibration = Calibration(construction='max', batch_size=6)
    got, _ = prototypes(source, images, 2, 3, calibration, jax.random.key(1))
    assert jnp.abs(got[0] - got[1]).max() > 1e-3
