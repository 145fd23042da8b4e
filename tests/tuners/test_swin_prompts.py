"""Prompts in a Swin against an independent torch network, window by window."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import torch_reference
from torch_reference import needs_torch, randomise
from tuned_swin import CONFIG, IMAGES, SPEC, backbone_of, features

from jax_prompt.backbones.swin import adapt
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.tree import flatten, unflatten
from jax_prompt.core.tuner import Place
from jax_prompt.methods import get_method
from jax_prompt.tuners.dvpt import DVPT
from jax_prompt.tuners.e2vpt import E2VPT, with_masks
from jax_prompt.tuners.pruning import full_masks
from jax_prompt.tuners.vpt import VPT
from jax_prompt.weights import swin
from jax_prompt.weights.rules import apply, match_names

P = 3


@pytest.fixture(scope='module')
def model():
    module = torch_reference.timm_swin()
    return randomise(
        module.SwinTransformer(
            img_size=32,
            patch_size=4,
            embed_dim=8,
            depths=(2, 2),
            num_heads=(1, 2),
            window_size=4,
            num_classes=5,
        ),
        scale=0.5,
    )


@pytest.fixture(scope='module')
def params(model):
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    matched = match_names(swin.FORMATS['timm'], tensors, 'timm')
    flat = apply(matched, tensors, swin.FAMILY.leaf_shapes(CONFIG), 'timm').flat
    return adapt(unflatten(flat), CONFIG)


def torch_block(block, x, prompts, mixed):
    """One block, its windows one after the other; `mixed`: with the prompts of image k mod B."""
    import torch

    batch, height, _, width = x.shape
    side, shift = block.window_size[0], block.shift_size[0]
    count, heads = (height // side) ** 2, block.attn.num_heads
    y = torch.roll(block.norm1(x), (-shift, -shift), (1, 2))
    y = y.reshape(batch, height // side, side, height // side, side, width)
    y = y.transpose(2, 3).reshape(batch * count, side * side, width)
    normed, outs, taken = block.norm1(prompts), [], [[] for _ in range(batch)]
    for k in range(batch * count):
        source = k % batch if mixed else k // count
        tokens = torch.cat([normed[source], y[k]])
        qkv = block.attn.qkv(tokens).reshape(len(tokens), 3, heads, -1).permute(1, 2, 0, 3)
        scores = qkv[0] @ qkv[1].transpose(1, 2) * qkv.shape[-1] ** -0.5
        scores[:, P:, P:] += block.attn._get_rel_pos_bias()[0]
        if block.attn_mask is not None:
            scores[:, P:, P:] += block.attn_mask[k % count]
        out = (scores.softmax(-1) @ qkv[2]).transpose(0, 1).reshape(len(tokens), width)
        out = block.attn.proj(out)
        outs.append(out[P:])
        taken[source].append(out[:P])
    y = torch.stack(outs).reshape(batch, height // side, height // side, side, side, width)
    y = torch.roll(y.transpose(2, 3).reshape(x.shape), (shift, shift), (1, 2))
    x, prompts = x + y, prompts + torch.stack([torch.stack(own).mean(0) for own in taken])
    return x + block.mlp(block.norm2(x)), prompts + block.mlp(block.norm2(prompts))


def torch_features(model, entering, mixed):
    """The whole network; `entering`: {layer: prompts [P, D]}."""
    import torch

    with torch.no_grad():
        x = model.patch_embed(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
        prompts, layer = None, 0
        for i, stage in enumerate(model.layers):
            if i:
                merge = stage.downsample
                prompts = merge.reduction(merge.norm(torch.cat([prompts] * 4, dim=-1)))
                x = merge(x)
            for block in stage.blocks:
                if layer in entering:
                    own = torch.from_numpy(np.array(entering[layer]))
                    prompts = own.expand(len(x), *own.shape)
                x, prompts = torch_block(block, x, prompts, mixed)
                layer += 1
        tokens = torch.cat([prompts, x.flatten(1, 2)], dim=1)
        return model.norm(tokens).mean(1).numpy()


@needs_torch
@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize('deep', [False, True])
def test_prompts_equal_torch(deep, mixed, model, params):
    tuner = VPT(P, deep, faithful=mixed)
    own = tuner.init(jax.random.key(0), SPEC)
    got = features(CONFIG, params, tuner, own)
    if deep:
        stages = own['layers'].values()
        each = [prompts for stage in stages for prompts in stage['prompts']]
        entering = dict(enumerate(each))
        assert [p.shape for p in each] == [(P, 8), (P, 8), (P, 16), (P, 16)]
    else:
        entering = {0: own['shared']['prompts']}
    want = torch_features(model, entering, mixed)
    assert want.std() > 0.1
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)
    if not deep:  # in deep ones the last stage, of one window, has prompts of its own
        other = torch_features(model, entering, not mixed)
        assert np.abs(want - other).max() > 1e-4


def test_prompts_are_pooled_unless_the_pool_is_of_patches_alone():
    backbone, tuner = backbone_of(), VPT(P)
    own = tuner.init(jax.random.key(0), SPEC)
    mean = replace(CONFIG, pool='mean')
    with_prompts = features(CONFIG, backbone, tuner, own)
    without = features(mean, backbone, tuner, own)
    assert np.abs(np.asarray(with_prompts - without)).max() > 1e-3


def test_faithful_is_for_swin_alone():
    spec = ViTConfig(32, 3, 2, 64, 4, 16).spec()
    with pytest.raises(ValueError, match='this is a vit: allowed: False'):
        get_method('vpt_deep').make_tuner(faithful=True).init(jax.random.key(0), spec)


def test_calibrated_prompts_of_each_stage_have_its_width():
    tuner = VPT(P)
    own = tuner.init(jax.random.key(0), SPEC)
    values = np.random.default_rng(0).normal(size=(4, P, 16)).astype(np.float32)
    layers = tuner.calibrated(own, values)['layers']
    np.testing.assert_array_equal(layers['stage_00']['prompts'], values[:2, :, :8])
    np.testing.assert_array_equal(layers['stage_01']['prompts'], values[2:])


def test_dvpt_has_a_meta_net_for_each_stage():
    """It acts at the stage's first block, and only there."""
    tuner = DVPT(P, meta_width=4)
    own = tuner.init(jax.random.key(0), SPEC)
    meta = own['shared']['meta']
    assert {k: v['linear_03']['kernel'].shape for k, v in meta.items()} == {
        'stage_00': (4, P * 8),
        'stage_01': (4, P * 16),
    }
    noisy = jax.tree.map(lambda x: x + 0.3, own)
    for layer, stage, dynamic in ((0, 0, True), (1, 0, False), (2, 2, True), (3, 2, False)):
        name = f'stage_0{stage // 2}'
        static = noisy['layers'][name]['prompts'][layer - stage]
        place = Place(
            shared=noisy['shared'],
            params={'prompts': static},
            layer=layer,
            stage=name,
            stage_start=stage,
            prompts_at=(0, P),
        )
        tokens = jax.random.normal(jax.random.key(1), (2, 16, static.shape[-1]))
        got = np.asarray(tuner.prompts(place, tokens))
        assert (np.abs(got[0] - got[1]).max() > 1e-5) == dynamic
        assert (np.abs(got - static).max() > 1e-5) == dynamic


def test_e2vpt_prunes_each_stage_by_its_own_layers():
    """What is kept of a layer's prompts, and the masks that say it, go with the layer's stage."""
    rng = np.random.default_rng(0)
    kept = np.ones((4, P, 4), int)
    kept[np.arange(4), rng.integers(0, P, 4)] = 0  # one prompt of each layer goes
    whole = E2VPT(P).init(jax.random.key(0), SPEC)['layers']
    pruned = E2VPT(P, kept=kept.tolist())
    layers = pruned.init(jax.random.key(0), SPEC)['layers']
    for stage, first in (('stage_00', 0), ('stage_01', 2)):
        for i in range(2):
            rows = np.flatnonzero(kept[first + i].any(axis=-1))
            want = whole[stage]['prompts'][i][rows]
            np.testing.assert_array_equal(layers[stage]['prompts'][i], want)
    assert pruned.num_active(SPEC) == 2 * (2 + 5) * (8 + 16)
    masked = with_masks({'layers': whole}, full_masks(4, P, 4))['layers']
    assert masked['stage_01']['masks']['tokens'].shape == (2, P)
    assert set(flatten(masked['stage_00'])) == {
        'kv_prompts',
        'masks/segments',
        'masks/tokens',
        'prompts',
    }
