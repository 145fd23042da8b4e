"""Released codes against this project: logits, gradients and 20 steps.

The codes are those of VPT, SPT, GateVPT, E2VPT and SSF.

`golden/make.py` made the numbers from the codes themselves.
"""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jax_prompt.backbones import table
from jax_prompt.backbones.vit import adapt
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.colour import HALF
from jax_prompt.core.tree import flatten, merge, split
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier
from jax_prompt.runs.backbone import fresh_norm
from jax_prompt.train.optim import Hyper, Optim
from jax_prompt.train.program import Program
from jax_prompt.train.step import make_step
from jax_prompt.weights.load import load_weights

GOLDEN = dict(np.load(Path(__file__).parent / 'golden' / 'released.npz'))
SUPERVISED = ViTConfig(16, 2, 2, 64, 4, 12)
MAE = replace(SUPERVISED, pool='mean_prompts', norm_after_pool=True)
VPT = Optim('sgd', momentum=0.9, warmup_epochs=2.0, per_epoch=True, decay_all=True)
SPT = Optim('adamw', warmup_epochs=2.0, min_lr=1e-8)
# case -> method, network, optimizer, (lr, weight decay, weight decay of the head)
CASES = {
    'vpt_deep': ('vpt_deep', MAE, VPT, Hyper(0.5, 0.01, 0.01)),
    'bias': ('bias', MAE, VPT, Hyper(0.5, 0.01, 0.01)),
    'gated_vpt': ('gated_vpt', MAE, VPT, Hyper(0.5, 0.01, 0.01)),
    'e2vpt': ('e2vpt', SUPERVISED, VPT, Hyper(0.5, 0.01, 0.01)),
    'ssf': ('ssf', SUPERVISED, SPT, Hyper(0.05, 0.05, 0.05)),
    'spt_supervised': ('spt_deep', SUPERVISED, SPT, Hyper(0.05, 0.01, 0.5)),
    'spt_mae': ('spt_deep', MAE, SPT, Hyper(0.05, 0.01, 0.5)),
}
OPTIONS = {
    'gated_vpt': {'num_prompts': 3, 'dropout_rate': 0.0},
    'e2vpt': {'num_prompts': 3, 'num_kv_prompts': 2},
    **{'bias': {}, 'ssf': {}},
}
FRESH = ('vpt_deep', 'bias')  # the code drops the file's norm
SSF_SITES = {  # where the code of SSF keeps which scale and shift of a block
    **{'ln1': 'ssf_{}_1', 'ln2': 'ssf_{}_2', 'qkv': 'attn.ssf_{}_1', 'proj': 'attn.ssf_{}_2'},
    **{'fc1': 'mlp.ssf_{}_1', 'fc2': 'mlp.ssf_{}_2'},
}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Returns a function from arrays by timm's names to the backbone's tree."""
    entry = table.Entry('vit_tiny.test', SUPERVISED, 'timm', HALF, HALF, 'x', None, 'w')
    monkeypatch.setitem(table.ARCHITECTURES, 'vit_tiny', SUPERVISED)
    monkeypatch.setitem(table.ENTRIES, entry.name, entry)

    def tree(state, seams):
        path = tmp_path / 'state.safetensors'
        safetensors.numpy.save_file(state, path)
        loaded, _ = load_weights(path, 'vit_tiny', format='timm')
        return adapt(loaded, SUPERVISED, seams)

    return tree


def _optim(case):
    return CASES[case][2]


def _part(case, kind):
    start = f'{case}/{kind}/'
    return {k.removeprefix(start): v for k, v in GOLDEN.items() if k.startswith(start)}


def _trained(case, kind, read, seams):
    """Returns the code's values or gradients in the form of the trainable tree."""
    state = _part(case, kind)
    name = 'HEAD.last_layer' if _optim(case) is VPT else 'head'
    kernel, bias = state.pop(f'{name}.weight'), state.pop(f'{name}.bias')
    out = {'head': {'kernel': kernel.T, 'bias': bias}}
    if case == 'bias':
        zeros = {k: np.zeros_like(v) for k, v in _weights().items()}
        state = {k.replace('fc_norm', 'norm'): v for k, v in state.items()}
        trains = get_method('bias').make_tuner().trains
        whole = read(zeros | state, seams)
        return {**out, 'backbone': split(whole, lambda path: trains(path, SUPERVISED.spec()))[0]}
    if case == 'ssf':
        return {**out, 'tuner': _ssf(state)}
    state = {k.removeprefix('transformer.'): v for k, v in state.items()}
    if case == 'gated_vpt':
        shared = {'prompts': state['prompt_embeddings'][0], 'gates': state['gate_logit']}
        layers = {'temperatures': state['temp']}
        return {**out, 'tuner': {'shared': shared, 'layers': layers}}
    if 'prompt_token' in state:
        prompts = state['prompt_token']
    else:
        prompts = np.concatenate([state['prompt_embeddings'], state['deep_prompt_embeddings']])
    layers = {'prompts': prompts}
    if case == 'e2vpt':
        names = [f'encoder.layer.{i}.attn.deep_QKV_embeddings' for i in range(SUPERVISED.depth)]
        layers['kv_prompts'] = np.stack([state[name] for name in names])
    return {**out, 'tuner': {'layers': layers}}


def _ssf(state):
    """Returns SSF's parameters from those of its code."""

    def leaves(name):
        scale, offset = (name.format(kind) for kind in ('scale', 'shift'))
        return {'scale': state[scale], 'offset': state[offset]}

    shared = {'patch_embed': leaves('patch_embed.ssf_{}_1'), 'norm': leaves('ssf_{}_1')}
    blocks = [
        {site: leaves(f'blocks.{i}.{name}') for site, name in SSF_SITES.items()}
        for i in range(SUPERVISED.depth)
    ]
    return {'shared': shared, 'layers': jax.tree.map(lambda *x: np.stack(x), *blocks)}


def _weights():
    return {k[8:]: v for k, v in GOLDEN.items() if k.startswith('weights/')}


def _program(case, method, network, optim):
    options = OPTIONS.get(case, {'num_prompts': 3})
    return Program(
        classifier=build_classifier(network, get_method(method), 5, **options),
        optim=optim,
        epochs=10,
        steps_per_epoch=2,
        augment=Augment(),
        image_size=12,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


@pytest.mark.parametrize('case', CASES)
def test_equals_the_released_code(case, read):
    method, network, optim, hyper = CASES[case]
    program = _program(case, method, network, optim)
    seams = program.classifier.backbone.seams
    trainable = jax.tree.map(jnp.asarray, _trained(case, 'start', read, seams))
    weights = read(_weights(), seams)
    if case in FRESH:
        weights = fresh_norm(weights)
    paths = {path.removeprefix('backbone/') for path in flatten(trainable)}
    frozen = {'backbone': split(weights, lambda path: path in paths)[1]}
    images, labels = jnp.asarray(GOLDEN['images']), jnp.asarray(GOLDEN['labels'], jnp.int32)

    logits = program.logits(trainable, frozen, images)
    np.testing.assert_allclose(logits, GOLDEN[f'{case}/logits'], rtol=1e-5, atol=2e-6)

    def loss(trainable):
        x = program.logits(trainable, frozen, images)
        return -jnp.mean(jax.nn.log_softmax(x)[jnp.arange(8), labels])

    got, want = jax.jit(jax.grad(loss))(trainable), _trained(case, 'grad', read, seams)
    for path, leaf in flatten(want).items():
        np.testing.assert_allclose(flatten(got)[path], leaf, rtol=1e-4, atol=2e-6, err_msg=path)

    state = program.init(trainable)
    hyper = Hyper(*(jnp.float32(x) for x in hyper))
    losses = []
    for _ in range(20):
        state, metrics = make_step(
            program, state, frozen, images, labels, jnp.ones(8), hyper, jax.random.key(0)
        )
        losses.append(float(metrics['loss']))
    np.testing.assert_allclose(losses, GOLDEN[f'{case}/losses'], rtol=1e-4)
    for path, leaf in flatten(_trained(case, 'end', read, seams)).items():
        end = flatten(state.trainable)[path]
        if path == 'tuner/layers/qkv/offset':
            # What is added to all keys changes no attention. The gradient of its part is rounding,
            # and Adam makes full steps of that.
            end, leaf = (np.delete(x, np.s_[16:32], axis=1) for x in (end, leaf))
        np.testing.assert_allclose(end, leaf, rtol=1e-3, atol=1e-4, err_msg=path)


def test_the_comparison_sees_vpts_decay_of_biases(read):
    """Without it the losses part, as they did before the option."""
    method, network, _, hyper = CASES['bias']
    program = _program('bias', method, network, replace(VPT, decay_all=False))
    seams = program.classifier.backbone.seams
    trainable = _trained('bias', 'start', read, seams)
    paths = {path.removeprefix('backbone/') for path in flatten(trainable)}
    weights = fresh_norm(read(_weights(), seams))
    frozen = {'backbone': split(weights, lambda path: path in paths)[1]}
    state = program.init(jax.tree.map(jnp.asarray, trainable))
    args = jnp.asarray(GOLDEN['images']), jnp.asarray(GOLDEN['labels'], jnp.int32), jnp.ones(8)
    for _ in range(20):
        state, metrics = make_step(
            program, state, frozen, *args, Hyper(*map(jnp.float32, hyper)), jax.random.key(0)
        )
    assert abs(float(metrics['loss']) - GOLDEN['bias/losses'][-1]) > 1e-2
    assert merge(state.trainable, frozen).keys() == {'backbone', 'head'}
