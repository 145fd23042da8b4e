"""What becomes of prompts that the next layer replaces is not computed; the rest is the same."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tuned_vit import CONFIG, IMAGES, SPEC, backbone_of

from jax_prompt.backbones.vit import Block, ViT
from jax_prompt.core.spec import Cut
from jax_prompt.core.tree import unstack_layers
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.tuners.vpt import VPT

P = 5


@pytest.fixture(scope='module')
def prompts():
    return jax.random.normal(jax.random.key(3), (CONFIG.depth, P, CONFIG.width))


def layer_by_layer(config, backbone, prompts):
    """Computes the features with all tokens in every block, as equations 6 and 7 of VPT say."""
    x = ViT(config).apply({'params': backbone}, IMAGES, stop=Cut(0))  # [B, 1 + N, D]
    layers, block = unstack_layers(backbone), Block(config)
    for i, own in enumerate(prompts):
        own = jnp.broadcast_to(own, (len(x), P, config.width))
        x = jnp.concatenate([x[:, :1], own, x[:, 1 + (P if i else 0) :]], axis=1)
        x = block.apply({'params': layers[f'block_{i:02d}']}, x, Tuner(), Place(), 0.0)
    kept, norm = x[:, :1] if config.pool == 'cls' else x[:, 1:], backbone['norm']
    centred = kept - kept.mean(-1, keepdims=True)
    scaled = centred / jnp.sqrt(kept.var(-1, keepdims=True) + config.norm_epsilon)
    return jnp.mean(scaled * norm['scale'] + norm['bias'], axis=1)


@pytest.mark.parametrize('scan', [True, False])
@pytest.mark.parametrize('pool', ['cls', 'mean_prompts'])
def test_features_and_gradients_are_those_of_all_tokens(prompts, pool, scan):
    config, backbone = replace(CONFIG, pool=pool, scan=scan), backbone_of()
    pick = jax.random.normal(jax.random.key(4), (len(IMAGES), config.width))

    def ours(prompts):
        params = {'layers': {'prompts': prompts}}
        return ViT(config).apply({'params': backbone}, IMAGES, VPT(P), params)

    want, got = layer_by_layer(config, backbone, prompts), jax.jit(ours)(prompts)
    np.testing.assert_allclose(got, want, atol=2e-5)
    gradients = [
        jax.jit(jax.grad(lambda p, f=f: jnp.sum(f(p) * pick)))(prompts)
        for f in (ours, lambda p: layer_by_layer(config, backbone, p))
    ]
    np.testing.assert_allclose(*gradients, rtol=2e-4, atol=2e-5)
    assert np.abs(gradients[0]).min(axis=(1, 2)).max() > 0.0


def test_fewer_products_than_prompts_that_stay():
    """Deep prompts have no queries, projections and MLPs but in the last layer; shallow ones do."""
    config = replace(CONFIG, scan=False, pool='mean')  # unrolled: XLA counts a loop's body once

    def flops(deep):
        tuner = VPT(P, deep)
        params = tuner.init(jax.random.key(0), SPEC)
        run = jax.jit(lambda b, t: ViT(config).apply({'params': b}, IMAGES, tuner, t))
        return run.lower(backbone_of(), params).compile().cost_analysis()['flops']

    d, layers = config.width, config.depth - 1
    of_prompts = 2 * P * layers * (d**2 + 2 * d * config.mlp_dim)
    assert flops(False) - flops(True) > len(IMAGES) * of_prompts
