import math
from functools import partial

import jax
import numpy as np
import pytest
from params import drawn
from tuned_vit import CONFIG, IMAGES, backbone_of

from jax_prompt.backbones.stack import run_block
from jax_prompt.backbones.vit import ViT
from jax_prompt.core.spec import Cut
from jax_prompt.core.tree import stack_layers, unstack_layers
from jax_prompt.evals.recorder import record, solve_residuals
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier
from jax_prompt.tuners.equilibrium import EquilibriumBlock

_run_block = jax.jit(partial(run_block, ViT(CONFIG)))


def _tuned(method, **options):
    """Returns a classifier of a small ViT and random parameters."""
    model = build_classifier(CONFIG, get_method(method), 3, **options)
    layers = unstack_layers(backbone_of())
    params = {'backbone': stack_layers(layers, (*CONFIG.seams, *model.backbone.seams))}
    return model, params | drawn(model.init_added, jax.random.key(0), seed=5, scale=0.2)


def _attention_by_numpy(weights, tokens, temperature=1.0):
    """Returns softmax(q k^T / (sqrt(d) t)), the mean over heads, from a block's input [B, T, D]."""
    mean, var = tokens.mean(-1, keepdims=True), tokens.var(-1, keepdims=True)
    y = (tokens - mean) / np.sqrt(var + CONFIG.norm_epsilon)
    y = y * weights['ln1']['scale'] + weights['ln1']['bias']
    qkv = y @ weights['attn']['qkv']['kernel'] + weights['attn']['qkv']['bias']
    width, depth = CONFIG.width, CONFIG.width // CONFIG.num_heads
    maps = []
    for head in range(CONFIG.num_heads):
        q, k = (qkv[..., s + head * depth : s + (head + 1) * depth] for s in (0, width))
        e = np.exp(q @ np.swapaxes(k, 1, 2) / (math.sqrt(depth) * temperature))
        maps.append(e / e.sum(-1, keepdims=True))
    return np.mean(maps, axis=0)


@pytest.mark.parametrize(
    ('method', 'options'),
    [
        ('vpt_deep', {'num_prompts': 3}),
        ('gated_vpt', {'num_prompts': 3}),
        ('dvpt_deep', {'num_prompts': 3, 'meta_input': 'pixels'}),
        ('linear', {}),
    ],
)
def test_what_is_recorded_is_what_the_network_does(method, options):
    model, params = _tuned(method, **options)
    seen = record(model, params, IMAGES)
    num = 0 if method == 'linear' else 3
    assert seen.prompts.shape == (3, 2, num, 32)
    assert seen.patches.shape == (3, 2, 16, 32)
    embedded = model.prefix(params['backbone'], IMAGES, Cut(0))
    np.testing.assert_allclose(seen.patches[0], embedded[:, 1:], atol=1e-6)
    if method == 'vpt_deep':
        own = params['tuner']['layers']['prompts']
        np.testing.assert_array_equal(seen.prompts, np.repeat(own[:, None], 2, axis=1))
    blocks = unstack_layers(params['backbone'])
    warm = params['tuner']['layers']['temperatures'] if method == 'gated_vpt' else np.ones(3)
    for layer in range(3):
        weights, tokens = blocks[f'block_{layer:02d}'], seen.tokens[layer]
        wanted = _attention_by_numpy(weights, tokens, warm[layer])  # [B, T, T]
        np.testing.assert_allclose(seen.attention[layer], wanted[:, : 1 + num], atol=1e-5)
        onto = seen.onto_patches[layer]
        np.testing.assert_allclose(onto, wanted[:, : 1 + num, 1 + num :], atol=1e-5)
        to_prompts = wanted[:, : 1 + num, 1 : 1 + num].sum(axis=-1)
        np.testing.assert_allclose(seen.onto_prompts[layer], to_prompts, atol=1e-5)
    if method in ('vpt_deep', 'linear'):  # what leaves a block enters the next
        stacked = stack_layers(blocks)['blocks_00_03']
        for layer in range(2):
            left = np.array(_run_block(stacked, seen.tokens[layer], layer))
            kept = slice(1 + num if method == 'vpt_deep' else 0, None)  # others are replaced
            np.testing.assert_allclose(left[:, kept], seen.tokens[layer + 1][:, kept], atol=1e-5)


def test_attention_to_prompts_counts_those_among_the_keys():
    model, params = _tuned('e2vpt', num_prompts=3, num_kv_prompts=5)
    seen = record(model, params, IMAGES)
    assert seen.attention.shape == (3, 2, 4, 1 + 3 + 16 + 5)
    both = seen.attention[..., [1, 2, 3, 20, 21, 22, 23, 24]].sum(axis=-1)
    np.testing.assert_allclose(seen.onto_prompts, both, atol=1e-6)


def test_a_part_of_a_combination_is_recorded_too():
    model, params = _tuned('lora+vpt_shallow', vpt_shallow={'num_prompts': 3})
    seen = record(model, params, IMAGES)
    own = params['tuner']['shared']['vpt_shallow']['prompts']
    np.testing.assert_array_equal(seen.prompts[0], np.repeat(own[None], 2, axis=0))


def test_residuals_of_plain_iteration_are_those_of_a_loop():
    model, params = _tuned('lora+lion', lion={'solver': 'plain', 'channels': 4, 'width': 6})
    got = solve_residuals(model, params, IMAGES, 4)
    shared = params['tuner']['shared']['lion']
    raw = np.asarray(jax.jit(model.raw_features)(params['backbone'], IMAGES))
    into = shared['p2']['into']
    starts = {'p1': IMAGES, 'p2': raw @ into['kernel'] + into['bias']}
    blocks = {'p1': EquilibriumBlock(3, 4, 3), 'p2': EquilibriumBlock(6, 6)}
    for name, x in starts.items():
        layers = {'layer_00': shared[name]['layer_00']}
        args, z, wanted = (jax.jit(blocks[name].prepare)(layers), x), x, []
        cell = jax.jit(blocks[name].cell)
        for _ in range(4):
            after = np.asarray(cell(args, z))
            norms = [np.linalg.norm(np.reshape(a, (2, -1)), axis=1) for a in (after - z, after)]
            wanted.append(norms[0] / norms[1])
            z = after
        np.testing.assert_allclose(got[name], wanted, rtol=1e-3, atol=1e-7)
        assert np.all(got[name][3] < got[name][0])


def test_only_lion_has_residuals():
    assert solve_residuals(*_tuned('vpt_deep'), IMAGES, 3) == {}
