"""Tuners folded into the backbone's weights: the same features without them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import noisy
from tuned_vit import CONFIG, SPEC, backbone_of, features, largest

from jax_prompt.core.tree import flatten, stack_layers, unflatten, unstack_layers
from jax_prompt.tuners.adapter import Adapter
from jax_prompt.tuners.compose import Compose
from jax_prompt.tuners.lora import LoRA
from jax_prompt.tuners.ssf import SSF
from jax_prompt.tuners.vpt import VPT

SEGMENTS = {'blocks_00_02': 2, 'blocks_02_03': 1}  # of a network without further seams


@pytest.mark.parametrize(
    'tuner',
    [LoRA(scale=0.5), LoRA(parts='q,k,v,proj,mlp'), LoRA(parts='v,fc1', first_layer=1), SSF()],
)
@pytest.mark.parametrize(
    'change',
    [
        {},
        {'layer_scale': True, 'pool': 'mean', 'num_registers': 2},
        {'norm_after_pool': True, 'pool': 'mean', 'class_token': False, 'class_position': False},
    ],
    ids=['cls', 'scaled', 'mean'],
)
def test_merged_weights_give_the_same_features(tuner, change):
    config, seams = replace(CONFIG, **change), (1,)
    backbone = backbone_of(config, seams)
    before = jax.tree.map(np.asarray, backbone)
    params = noisy(tuner.init(jax.random.key(0), SPEC))
    want = features(config, backbone, tuner, params, seams)
    assert largest(want, features(config, backbone, seams=seams)) > 0.01
    merged = tuner.merged(backbone, params, SPEC)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, backbone)
    assert largest(features(config, merged, seams=seams), want) <= 1e-4
    jax.tree.map(np.testing.assert_array_equal, backbone, before)
    apart = tuner.merged(jax.tree.map(np.asarray, unstack_layers(backbone)), params, SPEC)
    assert sum(key.startswith('block_') for key in apart) == 3
    jax.tree.map(
        np.testing.assert_array_equal, stack_layers(apart, (*config.seams, *seams)), merged
    )


@pytest.mark.parametrize('names', ['lora+ssf', 'ssf+lora'])
def test_several_tuners_merge_in_the_order_in_which_they_act(names):
    made = {'lora': LoRA(first_layer=1), 'ssf': SSF()}
    tuner = Compose(tuple((name, made[name]) for name in names.split('+')))
    backbone, params = backbone_of(seams=(1,)), noisy(tuner.init(jax.random.key(0), SPEC))
    want = features(CONFIG, backbone, tuner, params, (1,))
    merged = tuner.merged(backbone, params, SPEC)
    assert largest(features(CONFIG, merged, seams=(1,)), want) <= 1e-4


def test_a_shift_without_a_bias_to_take_it_is_named():
    config, tuner = replace(CONFIG, qkv_bias=False), SSF()
    backbone, params = backbone_of(config), noisy(SSF().init(jax.random.key(0), SPEC))
    with pytest.raises(ValueError, match=r'attn/qkv has no bias.*qkv_bias=True'):
        tuner.merged(backbone, params, SPEC)
    biases = {f'{name}/attn/qkv/bias': jnp.zeros((n, 96)) for name, n in SEGMENTS.items()}
    flat = flatten(backbone) | biases
    merged = tuner.merged(unflatten(flat), params, SPEC)  # as the message says
    want = features(config, backbone, tuner, params)
    assert largest(features(CONFIG, merged), want) <= 1e-4
    lora = LoRA()
    params = noisy(lora.init(jax.random.key(0), SPEC))
    got = features(config, lora.merged(backbone, params, SPEC))
    assert largest(got, features(config, backbone, lora, params)) <= 1e-4


@pytest.mark.parametrize('tuner', [Adapter(), VPT()])
def test_what_is_no_change_of_weights_does_not_merge(tuner):
    with pytest.raises(ValueError, match=f"{type(tuner).__name__} can't be merged.*lora.*ssf"):
        tuner.merged({}, {}, SPEC)
