"""Masked autoencoding: what is masked, what the encoder sees, what the loss counts, who learns."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import begun, copied

from jax_prompt.backbones.vit import ViT, visible_patches
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.tree import count, flatten
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier
from jax_prompt.nn.layers import patches
from jax_prompt.runs.backbone import build_backbone
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.prepare import initial
from jax_prompt.train.masked import Masked, as_masked, masked_loss, reconstruction_loss
from jax_prompt.train.optim import Hyper, Optim
from jax_prompt.train.options import Model
from jax_prompt.train.program import Program
from jax_prompt.train.step import make_step
from jax_prompt.tuners.decoder import MaskedDecoder, grid_positions

CONFIG = ViTConfig(16, 2, 2, 32, 4, 16, pool='mean', norm_after_pool=True, patch_drop_rate=0.75)
BATCH, CLASSES, D, PIXELS = 6, 3, 8, 48
BLOCK = 2 * 2 * D + (D + 1) * 3 * D + (D + 1) * D + (D + 1) * 4 * D + (4 * D + 1) * D
DECODER = (16 + 1) * D + D + 2 * BLOCK + 2 * D + (D + 1) * PIXELS
IMAGES = np.random.default_rng(0).integers(0, 256, (BATCH, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def program():
    classifier = build_classifier(CONFIG, get_method('retrain'), CLASSES)
    plain = Program(
        classifier=classifier,
        optim=Optim(b2=0.95),
        epochs=100,
        steps_per_epoch=1,
        augment=Augment(),
        image_size=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    return as_masked(plain, Masked(depth=2, width=D))


@pytest.fixture(scope='module')
def params(program):
    return begun(program.classifier, 1)


def _step(program, params, labels):
    state = program.init(copied(params))
    hyper = Hyper(*(np.float32(x) for x in (1e-2, 0.1, 0.1)))
    labels, weights = np.asarray(labels, np.int32), np.ones(BATCH, np.float32)
    return make_step(program, state, {}, IMAGES, labels, weights, hyper, jax.random.key(2))


def test_each_image_keeps_a_quarter_of_its_patches_drawn_anew():
    index = np.asarray(visible_patches(jax.random.key(0), 4000, CONFIG))
    assert index.shape == (4000, 4)
    assert (np.diff(index, axis=1) > 0).all()  # in order, none twice
    shares = np.bincount(index.ravel(), minlength=16) / 4000
    np.testing.assert_allclose(shares, 0.25, atol=0.03)  # 4 standard errors
    other = np.asarray(visible_patches(jax.random.key(1), 4000, CONFIG))
    assert (index != other).any(axis=1).mean() > 0.99


def test_the_encoder_sees_visible_patches_alone(program, params):
    key = jax.random.key(5)
    index = np.asarray(visible_patches(key, BATCH, CONFIG))
    x = np.random.default_rng(6).standard_normal((BATCH, 16, 16, 3)).astype(np.float32)
    seen = np.zeros((BATCH, 16), bool)
    np.put_along_axis(seen, index, True, axis=1)
    mask = np.repeat(np.repeat(seen.reshape(BATCH, 4, 4), 4, axis=1), 4, axis=2)[..., None]
    apply = partial(ViT(CONFIG).apply, {'params': params['backbone']}, key=key, train=True)
    encode = jax.jit(apply)
    want = encode(x)
    np.testing.assert_array_equal(encode(np.where(mask, x, np.float32(np.nan))), want)
    assert not np.allclose(encode(np.where(mask, np.float32(0.0), x)), want)


def test_loss_is_the_mean_over_masked_patches_of_normalised_pixels():
    rng = np.random.default_rng(3)
    predicted, target = rng.normal(size=(2, BATCH, 16, PIXELS)).astype(np.float32)
    index = np.stack([rng.permutation(16)[:4] for _ in range(BATCH)])
    want = []
    for i in range(BATCH):
        errors = []
        for n in set(range(16)) - set(index[i]):
            y = target[i, n].astype(np.float64)
            y = (y - y.mean()) / np.sqrt(y.var(ddof=1) + 1e-6)
            errors.append(((predicted[i, n] - y) ** 2).mean())
        want.append(np.mean(errors))
    got = reconstruction_loss(jnp.asarray(predicted), jnp.asarray(target), jnp.asarray(index))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_the_decoder_puts_tokens_back_in_their_places(program, params):
    spec, decoder = CONFIG.spec(), MaskedDecoder(D, 0, 2)  # without blocks each patch is alone
    own = decoder.init(jax.random.key(0), spec)
    tokens = jax.random.normal(jax.random.key(1), (1, 1 + 4, 16))
    index = jnp.array([[0, 3, 7, 9]])
    out = decoder.reconstruct(own, tokens, index, spec)
    shared = own['shared']
    grid = np.tile(shared['mask_token'], (16, 1))
    grid[[0, 3, 7, 9]] = tokens[0, 1:] @ shared['embed']['kernel'] + shared['embed']['bias']
    grid = grid + grid_positions(16, D)
    grid = (grid - grid.mean(1, keepdims=True)) / np.sqrt(grid.var(1, keepdims=True) + 1e-6)
    want = grid @ shared['pixels']['kernel'] + shared['pixels']['bias']
    np.testing.assert_allclose(out[0], want, atol=1e-5)
    assert count(params['tuner']) == DECODER


def test_positions_tell_all_places_apart():
    table = grid_positions(64, 32)
    apart = np.linalg.norm(table[:, None] - table[None], axis=-1)
    assert (apart + np.eye(64) > 0.4).all()
    np.testing.assert_allclose((table**2).sum(axis=1), 16.0, rtol=1e-5)  # sine and cosine pairs


def test_all_parts_learn_and_no_label_reaches_the_backbone(program, params):
    state, metrics = _step(program, params, [0] * BATCH)
    other, _ = _step(program, params, [2] * BATCH)
    start, after, others = map(flatten, (params, state.trainable, other.trainable))
    for path, leaf in after.items():
        assert np.abs(leaf - start[path]).max() > 0, path
        same = np.array_equal(leaf, others[path])
        assert same == (not path.startswith('head/')), path
    # Random predictions add their variance to that of the target: normalised tokens times a kernel
    # of variance 2 / (D + PIXELS).
    want = (PIXELS - 1) / PIXELS + D * 2 / (D + PIXELS)
    assert float(metrics['loss']) == pytest.approx(want, abs=0.1)


def test_reconstruction_improves_and_logits_are_those_of_the_backbone(program, params):
    state = program.init(copied(params))
    hyper, losses = Hyper(*(np.float32(x) for x in (1e-2, 0.0, 0.0))), []
    rest = np.zeros(BATCH, np.int32), np.ones(BATCH, np.float32), hyper, jax.random.key(2)
    for _ in range(30):
        state, metrics = make_step(program, state, {}, IMAGES, *rest)
        losses.append(float(metrics['loss']))
    assert losses[-1] < 0.9 * losses[0]
    plain = build_classifier(CONFIG, get_method('linear'), CLASSES)
    view = program.view(IMAGES)
    trained = state.trainable
    want = jax.jit(plain.apply)({name: trained[name] for name in ('backbone', 'head')}, view)
    got = jax.jit(program.logits)(trained, {}, IMAGES)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert patches(view, 4).shape == (BATCH, 16, PIXELS)
    assert program.loss is masked_loss


@pytest.mark.parametrize('method', ['retrain', 'full'])
def test_a_run_trains_the_whole_encoder(method):
    model, masked = Model(patch_drop_rate=0.75), Masked(depth=2)
    config = RunConfig('digits', 'mae_micro', method, search=False, masked=masked, model=model)
    backbone = build_backbone(config)
    program, trainable, frozen = initial(config, backbone, num_classes=3, num_train=8)
    assert isinstance(program.classifier.tuner, MaskedDecoder)
    assert not flatten(frozen)
    assert count(trainable['backbone']) == 1_204_608


def test_a_decoder_in_a_run_needs_masked_patches_and_a_method_that_trains_everything():
    config = RunConfig(
        'digits',
        'vit_micro',
        'retrain',
        search=False,
        masked=Masked(depth=2),
        model=Model(patch_drop_rate=0.75),
    )
    for changes, text in (
        ({'method': 'linear'}, "needs a ViT, and method 'retrain'"),
        ({'backbone': 'swin_micro'}, "needs a ViT, and method 'retrain'"),
        ({'model': Model()}, 'model.patch_drop_rate=0.75'),
        ({'optim': Optim(clip_norm=1.0)}, 'optim.clip_norm=0'),
    ):
        with pytest.raises(ValueError, match=text):
            replace(config, **changes)
    with pytest.raises(ValueError, match=r'masked.width is 6; allowed: a multiple of 4'):
        Masked(width=6)
