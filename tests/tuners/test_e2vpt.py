"""E2VPT: key-value prompts against plain attention, masks, importance, pruning and rewinding."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import begun, drawn

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.tree import count
from jax_prompt.core.tuner import Place
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier
from jax_prompt.nn.attention import attend
from jax_prompt.runs.config import resolve
from jax_prompt.tuners.e2vpt import E2VPT, with_masks
from jax_prompt.tuners.pruning import Masks, apply_mask, full_masks, importance, prune

CONFIG = ViTConfig(32, 3, 2, 64, 4, 16)
VIT_B = ViTConfig(768, 12, 12, 3072, 16, 224)


def _model(**options):
    model = build_classifier(CONFIG, get_method('e2vpt'), 5, num_prompts=4, **options)
    images = np.random.default_rng(1).standard_normal((3, 16, 16, 3)).astype(np.float32)
    return model, drawn(model.init, jax.random.key(0)), images, np.array([0, 3, 1])


def _losses(model, params, images, labels):
    def losses(masks):
        tuner = with_masks(params['tuner'], masks)
        logits = model.apply({**params, 'tuner': tuner}, images)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]

    return losses


def test_key_value_prompts_join_a_plain_attention():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 3, 6, 8)).astype(np.float32) for _ in range(3))
    prompts = rng.standard_normal((3, 5, 8)).astype(np.float32)
    place = Place(params={'kv_prompts': jnp.asarray(prompts)})
    got = attend(*E2VPT().attention(place, *map(jnp.asarray, (q, k, v))))
    for b in range(2):
        for h in range(3):
            keys, values = (np.concatenate([x[b, h], prompts[h]]) for x in (k, v))  # [11, 8]
            weights = np.exp(q[b, h] @ keys.T / np.sqrt(8.0))
            want = weights / weights.sum(axis=1, keepdims=True) @ values
            np.testing.assert_allclose(got[b, h], want, atol=1e-5)


def test_counts_and_the_start_on_vit_b():
    shapes = jax.eval_shape(lambda k: E2VPT().init(k, VIT_B.spec()), jax.random.key(0))
    assert shapes['layers']['kv_prompts'].shape == (12, 12, 5, 64)
    assert count(shapes) == 12 * (10 + 5) * 768 == 138_240 == E2VPT().num_active(VIT_B.spec())
    init = jax.jit(partial(E2VPT(4).init, spec=CONFIG.spec()))
    values = init(jax.random.key(0))['layers']['kv_prompts']
    bound = np.sqrt(6 / (5 * 16))
    assert 0.9 * bound < np.abs(values).max() <= bound


def test_full_masks_change_nothing_and_zeros_silence_their_segment():
    model, params, images, _ = _model()
    masks = jax.tree.map(lambda m: m[:, None], full_masks(3, 4))
    apply = jax.jit(model.apply)
    whole = apply({**params, 'tuner': with_masks(params['tuner'], masks)}, images)
    np.testing.assert_array_equal(whole, apply(params, images))
    prompts = np.arange(1.0, 65.0, dtype=np.float32).reshape(2, 32)
    segments = np.ones((2, 16), np.float32)
    segments[1, 3] = 0.0
    masked = np.asarray(apply_mask(prompts, segments))
    np.testing.assert_array_equal(np.flatnonzero(masked == 0), [32 + 6, 32 + 7])


def test_importance_is_the_gradient_of_each_image_by_its_masks():
    model, params, images, labels = _model()
    ones = full_masks(3, 4)
    scores = jax.jit(lambda ones: importance(_losses(model, params, images, labels), ones, 3))(ones)
    assert scores.tokens.shape == (3, 4) and scores.segments.shape == (3, 4, 16)

    @jax.jit
    def by_mask(tokens, image, label):
        losses = _losses(model, params, image[None], label[None])
        loss = lambda tokens: losses(Masks(tokens[:, None], ones.segments[:, None]))[0]  # noqa: E731
        return jax.grad(loss)(tokens)

    # The same by the chain rule: a mask's gradient is <prompt, gradient by the prompt>.
    @jax.jit
    def by_prompt(prompts, image, label):
        def plain(prompts):
            layers = {**params['tuner']['layers'], 'prompts': prompts}
            logits = model.apply({**params, 'tuner': {'layers': layers}}, image[None])
            return -jax.nn.log_softmax(logits)[0, label]

        return jax.grad(plain)(prompts)

    total = np.zeros((3, 4))
    prompts = np.asarray(params['tuner']['layers']['prompts'])
    for image, label in zip(images, labels, strict=True):
        grads = by_mask(ones.tokens, image, label)
        rule = np.sum(prompts * by_prompt(prompts, image, label), axis=-1)
        np.testing.assert_allclose(grads, rule, atol=1e-5)
        total += np.abs(np.asarray(grads))
    np.testing.assert_allclose(scores.tokens, total, atol=1e-5)


def _scores():
    rng = np.random.default_rng(0)
    return Masks(rng.random((3, 4)), rng.random((3, 4, 16)))


def test_pruning_drops_the_least_important():
    scores = _scores()
    kept = np.asarray(prune(scores, 0.5, 0.25))
    tokens = kept.any(axis=-1)
    assert (tokens.sum(axis=1) == 2).all()
    assert (kept.sum(axis=-1)[tokens] == 12).all()
    for layer in range(3):
        assert (
            scores.tokens[layer][tokens[layer]].min() > scores.tokens[layer][~tokens[layer]].max()
        )
        for row in np.flatnonzero(tokens[layer]):
            on = kept[layer, row].astype(bool)
            segment = scores.segments[layer, row]
            assert segment[on].min() > segment[~on].max()
    assert np.asarray(prune(scores, 0.0, 0.0)).all()
    assert np.asarray(prune(scores, 0.3, 0.0)).any(axis=-1).sum() == 9  # 1.2 of 4: one goes


def test_rewinding_starts_from_the_first_stages_values():
    whole, _, images, _ = _model()
    kept = prune(_scores(), 0.5, 0.25)
    model, *_ = _model(kept=kept)
    params, pruned = begun(whole), begun(model)
    assert model.facts.prompt_length == 2
    first, second = params['tuner']['layers'], pruned['tuner']['layers']
    np.testing.assert_array_equal(second['kv_prompts'], first['kv_prompts'])
    np.testing.assert_array_equal(pruned['head']['kernel'], params['head']['kernel'])
    mask = np.repeat(np.asarray(kept), 2, axis=-1)  # [L, P, D]
    rows = mask.any(axis=-1)
    want = (np.asarray(first['prompts']) * mask)[rows].reshape(3, 2, 32)
    np.testing.assert_array_equal(second['prompts'], want)
    assert model.tuner.num_active(model.spec) == 3 * 2 * 12 * 2 + 3 * 5 * 32

    def loss(prompts):
        layers = {**second, 'prompts': prompts}
        logits = model.apply({**pruned, 'tuner': {'layers': layers}}, images)
        return jnp.sum(logits[:, 0]), logits

    grads, logits = jax.jit(jax.grad(loss, has_aux=True))(second['prompts'])
    grads = np.asarray(grads)
    gone = want == 0
    assert (grads[gone] == 0).all() and (grads[~gone] != 0).mean() > 0.99
    unrolled = replace(model, backbone=replace(model.backbone, config=replace(CONFIG, scan=False)))
    np.testing.assert_allclose(jax.jit(unrolled.apply)(pruned, images), logits, atol=1e-5)


def test_kept_passes_through_a_saved_config():
    kept = prune(_scores(), 0.5, 0.25)
    as_json = [[list(token) for token in layer] for layer in kept]
    config = resolve(
        {
            'data': 'digits',
            'backbone': 'vit_micro',
            'method': 'e2vpt',
            'num_prompts': 4,
            'search': False,
            'tuner': {'kept': as_json},
        }
    )
    tuner = get_method('e2vpt').make_tuner(**config.tuner_options)
    assert tuner == E2VPT(4, kept=kept) and hash(tuner) == hash(E2VPT(4, kept=kept))


def test_dropout_masks_keys_and_values_on_their_own():
    q = jnp.ones((2, 2, 6, 16))
    place = Place(params={'kv_prompts': jnp.ones((2, 5, 16))}, key=jax.random.key(0), train=True)
    _, k, v = E2VPT(dropout_rate=0.5).attention(place, q, q, q)
    np.testing.assert_array_equal(k[:, :, :6], q)
    assert (k[:, :, 6:] == 0).any() and (k != v).any()
    _, k, v = E2VPT().attention(place, q, q, q)
    assert (k == 1).all() and (v == 1).all()


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        ({'deep': False}, 'allowed: True'),
        ({'num_kv_prompts': 0}, 'at least 1'),
        ({'num_prompts': 2, 'kept': (((1,), (1,)), ((1,), (0,)))}, r'leaves \[2, 1\] tokens'),
        ({'num_prompts': 3, 'kept': (((1,), (1,)),)}, r'shape \(1, 2, 1\).*\(3\)'),
        ({'num_prompts': 1, 'kept': ((1,), (1, 1))}, 'as `prune` returns'),
        ({'num_prompts': 1, 'kept': (((2,),),)}, '0 and 1'),
        ({'num_prompts': 1, 'kept': (((0,),),)}, 'at least 1'),
    ],
)
def test_bad_options_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        E2VPT(**options)


def test_bad_shares_scores_and_backbones_are_named():
    with pytest.raises(ValueError, match=r'token_share is 1.0; allowed: \[0, 1\)'):
        prune(_scores(), 1.0, 0.0)
    with pytest.raises(ValueError, match='not finite'):
        prune(Masks(np.full((3, 4), np.nan), np.ones((3, 4, 16))), 0.5, 0.0)
    with pytest.raises(ValueError, match='has 12 layers'):
        E2VPT(4, kept=prune(_scores(), 0.5, 0.0)).init(jax.random.key(0), VIT_B.spec())
    with pytest.raises(ValueError, match='no attention heads'):
        E2VPT().init(jax.random.key(0), replace(CONFIG.spec(), family='resnet', num_heads=0))
