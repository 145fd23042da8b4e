"""LoRA, SSF and adapters against their equations in plain torch."""

import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import noisy
from tuned_vit import CONFIG, IMAGES, backbone_of, features

from jax_prompt.core.tree import flatten, unflatten, unstack_layers
from jax_prompt.tuners.adapter import Adapter
from jax_prompt.tuners.lora import LoRA
from jax_prompt.tuners.ssf import SSF


def _torch_features(torch, backbone, tuner, params, images, scale):
    """A ViT with LoRA, SSF or adapters in plain torch, from the papers' equations."""
    functional, outer = torch.nn.functional, params.get('shared', {})

    def ssf(own, name, y):
        return y * own[name]['scale'] + own[name]['offset'] if tuner == 'ssf' else y

    def norm(own, weights, name, x):
        y = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
        return ssf(own, name, y * weights[name]['scale'] + weights[name]['bias'])

    def linear(own, weights, name, x):
        kernel = weights[name]['kernel']
        if tuner == 'lora' and name in own:
            kernel = kernel + scale * own[name]['down'] @ own[name]['up']
        if tuner == 'lora' and name == 'qkv':
            columns = dict(zip('qkv', kernel.chunk(3, dim=1), strict=True))
            for third in columns.keys() & own.keys():
                columns[third] = columns[third] + scale * own[third]['down'] @ own[third]['up']
            kernel = torch.cat([columns[third] for third in 'qkv'], dim=1)
        return ssf(own, name, x @ kernel + weights[name]['bias'])

    p = backbone['patch_embed']['kernel'].shape[0]
    kernel = backbone['patch_embed']['kernel'].permute(3, 2, 0, 1)
    x = functional.conv2d(images.permute(0, 3, 1, 2), kernel, backbone['patch_embed']['bias'], p)
    x = ssf(outer, 'patch_embed', x.flatten(2).transpose(1, 2))
    cls = backbone['cls_token'].expand(len(x), -1, -1)
    x = torch.cat([cls, x], dim=1) + backbone['pos_embed']
    for layer in range(2):
        weights = backbone[f'block_{layer:02d}']
        own = jax.tree.map(lambda leaf, i=layer: leaf[i], params['layers'])
        qkv = linear(own, weights['attn'], 'qkv', norm(own, weights, 'ln1', x))
        q, k, v = (z.unflatten(-1, (2, -1)).transpose(1, 2) for z in qkv.chunk(3, dim=-1))
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + linear(own, weights['attn'], 'proj', y)
        h = linear(own, weights['mlp'], 'fc1', norm(own, weights, 'ln2', x))
        y = linear(own, weights['mlp'], 'fc2', functional.gelu(h))
        if tuner == 'adapter':
            down, up = own['down'], own['up']
            h = functional.gelu(y @ down['kernel'] + down['bias'])
            y = y + h @ up['kernel'] + up['bias']
        x = x + y
    return norm(outer, backbone, 'norm', x)[:, 0]


@pytest.mark.parametrize(
    ('name', 'tuner'),
    [
        ('lora', LoRA(rank=4, scale=0.5, parts='qkv,proj,mlp')),
        ('lora', LoRA(rank=4, scale=2.0, parts='v,q,fc2')),
        ('ssf', SSF()),
        ('adapter', Adapter(hidden=8)),
    ],
)
def test_features_and_gradients_equal_a_restatement_in_torch(name, tuner):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # those of importing other people's code
        torch = pytest.importorskip('torch')
    config = replace(CONFIG, depth=2)
    backbone = backbone_of(config)
    params = noisy(tuner.init(jax.random.key(0), config.spec()))
    weight = jax.random.normal(jax.random.key(7), (2, 32)) / 8

    def loss(params):
        out = features(config, backbone, tuner, params)
        return jnp.sum(out * weight), out

    grads, got = jax.grad(loss, has_aux=True)(params)

    def double(tree):
        return jax.tree.map(lambda leaf: torch.from_numpy(np.array(leaf, np.float64)), tree)

    leaves = {k: v.requires_grad_() for k, v in flatten(double(params)).items()}
    want = _torch_features(
        torch,
        double(unstack_layers(backbone)),
        name,
        unflatten(leaves),
        double(IMAGES),
        getattr(tuner, 'scale', 1.0),
    )
    np.testing.assert_allclose(got, want.detach().numpy(), atol=1e-5)
    (want * double(weight)).sum().backward()
    for path, leaf in flatten(grads).items():
        expected = leaves[path].grad.numpy()
        assert np.abs(expected).max() > 1e-3, path
        np.testing.assert_allclose(leaf, expected, atol=1e-5, err_msg=path)
