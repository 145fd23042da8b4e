"""Gated VPT against a small re-statement in torch, and its limits."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import drawn

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.tree import count, flatten, unstack_layers
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier
from jax_prompt.tuners.gated import GatedVPT
from jax_prompt.tuners.vpt import VPT

CONFIG = ViTConfig(32, 3, 2, 64, 4, 16)


def _model(gates=(-0.7, 0.4), temperatures=(0.6, 1.0, 2.5)):
    model = build_classifier(CONFIG, get_method('gated_vpt'), 5, num_prompts=4)
    params = drawn(model.init, jax.random.key(0))
    params['tuner']['shared']['gates'] = jnp.asarray(gates)
    params['tuner']['layers']['temperatures'] = jnp.asarray(temperatures)
    images = jax.random.normal(jax.random.key(1), (3, 16, 16, 3))
    # Rows that weigh the logits: a plain sum has no gradient through the last norm's mean.
    return model, params, images, jax.random.normal(jax.random.key(2), (3, 5))


def _torch_logits(torch, p, images):
    """A ViT with gated prompts, from the paper's text and flat parameters."""

    def norm(x, path):
        return torch.nn.functional.layer_norm(
            x, (32,), p[f'{path}/scale'], p[f'{path}/bias'], eps=1e-6
        )

    def dense(x, path):
        return x @ p[f'{path}/kernel'] + p[f'{path}/bias']

    x = images.unfold(1, 4, 4).unfold(2, 4, 4)  # [B, 4, 4, 3, 4, 4]
    x = x.permute(0, 1, 2, 4, 5, 3).reshape(len(images), 16, 48)
    kernel = p['backbone/patch_embed/kernel'].reshape(48, 32)
    x = x @ kernel + p['backbone/patch_embed/bias']
    cls = p['backbone/cls_token'].expand(len(images), 1, 32)
    x = torch.cat([cls, x], dim=1) + p['backbone/pos_embed']
    prompts = p['tuner/shared/prompts'].expand(len(images), -1, -1)
    num = prompts.shape[1]
    x = torch.cat([x[:, :1], prompts, x[:, 1:]], dim=1)
    for i in range(3):
        before = x[:, 1 : 1 + num]
        block = f'backbone/block_{i:02d}'
        y = dense(norm(x, f'{block}/ln1'), f'{block}/attn/qkv')
        q, k, v = y.reshape(*y.shape[:2], 3, 2, 16).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / (16**0.5 * p['tuner/layers/temperatures'][i])
        y = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(y.shape[0], -1, 32)
        x = x + dense(y, f'{block}/attn/proj')
        y = dense(norm(x, f'{block}/ln2'), f'{block}/mlp/fc1')
        x = x + dense(torch.nn.functional.gelu(y), f'{block}/mlp/fc2')
        if i < 2:
            gate = torch.sigmoid(p['tuner/shared/gates'][i])
            mixed = gate * x[:, 1 : 1 + num] + (1 - gate) * before
            x = torch.cat([x[:, :1], mixed, x[:, 1 + num :]], dim=1)
    return dense(norm(x[:, 0], 'backbone/norm'), 'head')


def test_logits_and_gradients_equal_a_restatement_in_torch():
    torch = pytest.importorskip('torch', reason='torch is not installed')
    model, params, images, rows = _model()
    layers = {**params, 'backbone': unstack_layers(params['backbone'])}
    flat = {k: torch.tensor(np.asarray(v)) for k, v in flatten(layers).items()}
    for path, leaf in flat.items():
        leaf.requires_grad_(path.startswith('tuner/'))
    want = _torch_logits(torch, flat, torch.tensor(np.asarray(images)))
    np.testing.assert_allclose(model.apply(params, images), want.detach().numpy(), atol=1e-5)

    def loss(tuner):
        return jnp.sum(rows * model.apply({**params, 'tuner': tuner}, images))

    (want * torch.tensor(np.asarray(rows))).sum().backward()
    for path, grad in flatten(jax.grad(loss)(params['tuner'])).items():
        np.testing.assert_allclose(
            grad, flat[f'tuner/{path}'].grad.numpy(), atol=1e-5, rtol=1e-5, err_msg=path
        )


def test_open_gates_and_temperature_1_are_vpt_shallow():
    model, params, images, _ = _model((40.0, 40.0), (1.0, 1.0, 1.0))
    shared = {'prompts': params['tuner']['shared']['prompts']}
    plain = replace(model, tuner=VPT(4, deep=False))
    want = plain.apply({**params, 'tuner': {'shared': shared}}, images)
    np.testing.assert_allclose(model.apply(params, images), want, atol=1e-6)


def test_shut_gates_put_the_learned_prompts_before_every_block():
    model, params, images, _ = _model((-40.0, -40.0), (1.0, 1.0, 1.0))
    prompts = params['tuner']['shared']['prompts']
    layers = {'prompts': jnp.broadcast_to(prompts, (3, *prompts.shape))}
    deep = build_classifier(CONFIG, get_method('vpt_deep'), 5, num_prompts=4)
    want = deep.apply({**params, 'tuner': {'layers': layers}}, images)
    np.testing.assert_allclose(model.apply(params, images), want, atol=1e-6)


def test_starts_at_the_published_gates_and_temperatures():
    config = ViTConfig(768, 12, 12, 3072, 16, 224)
    init = GatedVPT().init
    shapes = jax.eval_shape(lambda k: init(k, config.spec()), jax.random.key(0))
    assert shapes['shared']['gates'].shape == (11,)
    assert shapes['layers']['temperatures'].shape == (12,)
    assert count(shapes) == 100 * 768 + 11 + 12 == 76_823
    params = GatedVPT(4).init(jax.random.key(0), CONFIG.spec())
    assert set(np.asarray(params['shared']['gates'])) == {-5.0}
    assert set(np.asarray(params['layers']['temperatures'])) == {1.0}


def test_temperatures_are_clamped_and_can_come_back():
    model, params, images, rows = _model()

    def loss(value):
        layers = {'temperatures': jnp.stack([jnp.float32(1.0), jnp.float32(1.0), value])}
        tuner = {'shared': params['tuner']['shared'], 'layers': layers}
        return jnp.sum(rows * model.apply({**params, 'tuner': tuner}, images))

    def logits(t):
        return jax.value_and_grad(loss)(jnp.float32(t))

    inside, slope = logits(10.0)
    outside, own = logits(25.0)
    np.testing.assert_array_equal(outside, inside)
    assert slope != 0
    # Descent from above may only come down: a positive gradient passes, a negative one is stopped.
    assert float(own) == pytest.approx(max(float(slope), 0.0))


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        ({'deep': True}, 'allowed: False'),
        ({'num_prompts': 0}, 'at least 1'),
        ({'dropout_rate': 1.0}, r'allowed: \[0, 1\)'),
    ],
)
def test_bad_options_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        GatedVPT(**options)


def test_a_single_block_has_no_gate():
    config = replace(CONFIG, depth=1)
    model = build_classifier(config, get_method('gated_vpt'), 5, num_prompts=4)
    params = drawn(model.init, jax.random.key(0))
    assert params['tuner']['shared']['gates'].shape == (0,)
    assert jnp.isfinite(model.apply(params, jnp.ones((1, 16, 16, 3)))).all()
