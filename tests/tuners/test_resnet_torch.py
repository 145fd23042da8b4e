"""Tuners on a ResNet against their equations in plain torch."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import noisy
from tuned_resnet import CONFIG, IMAGES, SPEC, stacked, weights_of

from jax_prompt.backbones.resnet import ResNet
from jax_prompt.core.tree import flatten, unflatten
from jax_prompt.tuners.adapter import Adapter
from jax_prompt.tuners.lora import LoRA
from jax_prompt.tuners.pixel import BorderPrompt, ChannelPrompt
from jax_prompt.tuners.snf import SNF
from jax_prompt.tuners.ssf import SSF

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Torch:
    """A ResNet of bottlenecks with a tuner, in plain torch, from the papers' equations."""

    def __init__(self, torch, backbone, tuner, params):
        self.torch, self.f, self.backbone = torch, torch.nn.functional, backbone
        self.tuner, self.shared = tuner, params.get('shared', {})
        self.layers = []  # the tuner's own leaves of each block
        for layer in range(SPEC.num_layers):
            run, first = SPEC.stage_of(layer)
            own = params.get('layers', {}).get(run, {})
            self.layers.append(jax.tree.map(lambda leaf, i=layer - first: leaf[i], own))

    def conv(self, weights, name, x, stride, own):
        kernel = weights[name]['kernel'].permute(3, 2, 0, 1)
        pad = kernel.shape[-1] // 2
        y = self.f.conv2d(x, kernel, stride=stride, padding=pad)
        if isinstance(self.tuner, LoRA) and name in own:
            down = own[name]['down'].permute(3, 2, 0, 1)
            h = self.f.conv2d(x, down, stride=stride, padding=pad)
            y = y + self.tuner.scale * self.f.conv2d(h, own[name]['up'].T[:, :, None, None])
        return self.ssf(own, name, y)

    def norm(self, weights, name, x, own):
        w = weights[name]
        y = self.f.batch_norm(x, w['mean'], w['var'], w['scale'], w['bias'], eps=1e-5)
        return self.ssf(own, name, y)

    def ssf(self, own, name, y):
        if not isinstance(self.tuner, SSF):
            return y
        return y * own[name]['scale'][:, None, None] + own[name]['offset'][:, None, None]

    def block(self, layer, x):
        weights, own = self.backbone[f'block_{layer:02d}'], self.layers[layer]
        stride = 2 if layer == 2 else 1
        y = self.f.relu(self.norm(weights, 'norm1', self.conv(weights, 'conv1', x, 1, own), own))
        y = self.conv(weights, 'conv2', y, stride, own)
        y = self.f.relu(self.norm(weights, 'norm2', y, own))
        y = self.norm(weights, 'norm3', self.conv(weights, 'conv3', y, 1, own), own)
        if 'down_conv' in weights:
            x = self.conv(weights, 'down_conv', x, stride, own)
            x = self.norm(weights, 'down_norm', x, own)
        if isinstance(self.tuner, SNF):
            flow = own['shortcut']
            x = x * flow['scale'][0][:, None, None] + flow['offset'][0][:, None, None]
        y = self.f.relu(y + x)
        if isinstance(self.tuner, Adapter):
            rows = y.permute(0, 2, 3, 1)
            h = self.f.gelu(rows @ own['down']['kernel'] + own['down']['bias'])
            y = y + (h @ own['up']['kernel'] + own['up']['bias']).permute(0, 3, 1, 2)
        return y

    def enter(self, images):
        """Images [B, 3, H, W] to the stem's output, as the released code of VPT prompts them."""
        cat, batch, own = self.torch.cat, len(images), self.shared
        weights = self.backbone
        mean, std = (self.torch.tensor(v, dtype=images.dtype)[:, None, None] for v in (MEAN, STD))
        if isinstance(self.tuner, BorderPrompt):
            edges = {k: (v.permute(2, 0, 1) - mean) / std for k, v in own.items()}
            edges = {k: v.expand(batch, -1, -1, -1) for k, v in edges.items()}
            images = cat([edges['left'], images, edges['right']], dim=3)
            images = cat([edges['top'], images, edges['bottom']], dim=2)
        if isinstance(self.tuner, ChannelPrompt):
            maps = (own['maps'].permute(2, 0, 1) - mean.mean()) / std.mean()
            images = cat([images, maps.expand(batch, -1, -1, -1)], dim=1)
            kernel = cat([weights['stem_conv']['kernel'], own['kernel']], dim=2)
            weights = {**weights, 'stem_conv': {'kernel': kernel}}
        return self.norm(weights, 'stem_norm', self.conv(weights, 'stem_conv', images, 2, own), own)

    def features(self, images):
        x = self.f.max_pool2d(self.f.relu(self.enter(images.permute(0, 3, 1, 2))), 3, 2, 1)
        for layer in range(SPEC.num_layers):
            x = self.block(layer, x)
        return x.mean(dim=(2, 3))


@pytest.mark.parametrize(
    'tuner',
    [
        LoRA(rank=4, scale=0.5, parts='conv'),
        SSF(),
        Adapter(hidden=8),
        SNF(),
        BorderPrompt(3),
        ChannelPrompt(2),
    ],
    ids=lambda tuner: type(tuner).__name__,
)
def test_features_and_gradients_equal_a_restatement_in_torch(tuner):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # those of importing other people's code
        torch = pytest.importorskip('torch')
    params = noisy(tuner.init(jax.random.key(0), SPEC), scale=0.1)
    weight = jax.random.normal(jax.random.key(7), (3, SPEC.feature_dim)) / 8
    backbone = stacked()

    @jax.jit
    def run(params):
        def loss(params):
            out = ResNet(CONFIG).apply({'params': backbone}, IMAGES, tuner, params)
            return jnp.sum(out * weight), out

        return jax.grad(loss, has_aux=True)(params)

    grads, got = run(params)

    def double(tree):
        return jax.tree.map(lambda leaf: torch.from_numpy(np.array(leaf, np.float64)), tree)

    leaves = {k: v.requires_grad_() for k, v in flatten(double(params)).items()}
    network = _Torch(torch, double(weights_of()), tuner, unflatten(leaves))
    want = network.features(double(IMAGES))
    np.testing.assert_allclose(got, want.detach().numpy(), atol=1e-5)
    (want * double(weight)).sum().backward()
    for path, leaf in flatten(grads).items():
        expected = leaves[path].grad.numpy()
        assert np.abs(expected).max() > 1e-4, path
        np.testing.assert_allclose(leaf, expected, atol=1e-5, err_msg=path)
