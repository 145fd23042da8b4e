"""LoRA, SSF and adapters: counts, starts, layers and options."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import drawn, noisy
from tuned_vit import CONFIG, IMAGES, SPEC, backbone_of, features, largest

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.spec import Cut
from jax_prompt.core.staged import segment
from jax_prompt.core.tree import count, flatten, stack_layers, unstack_layers
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier
from jax_prompt.tuners.adapter import Adapter
from jax_prompt.tuners.lora import LoRA
from jax_prompt.tuners.ssf import SSF

VIT_B = ViTConfig(768, 12, 12, 3072, 16, 224)
ALL_PARTS = 'q,k,v,proj,mlp'


@pytest.mark.parametrize(
    ('name', 'options', 'golden'),
    [
        ('lora', {}, 294_912),
        ('lora', {'parts': 'q,v'}, 12 * 2 * 8 * (768 + 768)),
        ('lora', {'parts': 'mlp', 'rank': 4}, 12 * 2 * 4 * (768 + 3072)),
        ('lora', {'first_layer': 9}, 3 * 8 * (768 + 2304)),
        ('ssf', {}, 205_824),
        ('adapter', {'hidden': 8}, 156_768),
        ('adapter', {}, 1_189_632),
    ],
)
def test_golden_counts_on_vit_b(name, options, golden):
    model = build_classifier(VIT_B, get_method(name), 10, **options)
    assert count(jax.eval_shape(model.init_added, jax.random.key(0))['tuner']) == golden


@pytest.mark.parametrize(
    'tuner',
    [LoRA(), LoRA(parts=ALL_PARTS), SSF(identity=True), Adapter(), Adapter(faithful=True)],
    ids=str,
)
def test_training_starts_from_the_frozen_network(tuner):
    backbone, params = backbone_of(), tuner.init(jax.random.key(2), SPEC)
    want = features(CONFIG, backbone)
    np.testing.assert_allclose(features(CONFIG, backbone, tuner, params), want, atol=2e-6)
    assert largest(features(CONFIG, backbone, tuner, noisy(params)), want) > 0.01


def test_ssf_starts_near_the_frozen_network_not_at_it():
    params = flatten(SSF().init(jax.random.key(2), VIT_B.spec()))
    for path, leaf in params.items():
        centre = 1.0 if path.endswith('scale') else 0.0
        assert float(leaf.mean()) == pytest.approx(centre, abs=0.005), path
        assert float(leaf.std()) == pytest.approx(0.02, rel=0.1), path
    backbone, params = backbone_of(), SSF().init(jax.random.key(2), SPEC)
    moved = largest(features(CONFIG, backbone, SSF(), params), features(CONFIG, backbone))
    assert 1e-3 < moved < 1.0


def test_lora_starts_as_kaiming_and_zero():
    params = LoRA(parts='qkv,fc2').init(jax.random.key(0), SPEC)['layers']
    for name, inputs in (('qkv', 32), ('fc2', 64)):
        down, bound = np.abs(np.asarray(params[name]['down'])), inputs**-0.5
        assert down.shape == (3, inputs, 8)
        assert 0.95 * bound < down.max() <= bound
        assert not np.asarray(params[name]['up']).any()
    assert params['qkv']['up'].shape == (3, 8, 96)


@pytest.mark.parametrize(('name', 'third'), [('q', 0), ('k', 1), ('v', 2)])
def test_parts_of_the_joint_projection_act_on_their_third(name, third):
    tuner = LoRA(parts=name)
    own = jax.tree.map(lambda leaf: leaf[0], noisy(tuner.init(jax.random.key(0), SPEC))['layers'])
    x, y = jnp.ones((2, 5, 32)), jnp.zeros((2, 5, 96), jnp.bfloat16)
    got = tuner.after(Place(params=own), 'qkv', x, y)
    assert got.dtype == jnp.bfloat16
    reached = np.abs(np.asarray(got, np.float32)).max(axis=(0, 1)).reshape(3, 32).max(axis=1) > 0
    assert reached.tolist() == [i == third for i in range(3)]


def test_lora_dropout_acts_in_training_only():
    tuner, backbone = LoRA(dropout_rate=0.5), backbone_of()
    params = noisy(tuner.init(jax.random.key(0), SPEC))
    plain = features(CONFIG, backbone, LoRA(), params)
    key = jax.random.key(4)
    np.testing.assert_array_equal(features(CONFIG, backbone, tuner, params, key=key), plain)
    one = features(CONFIG, backbone, tuner, params, key=key, train=True)
    two = features(CONFIG, backbone, tuner, params, key=jax.random.key(5), train=True)
    assert largest(one, plain) > 1e-3 and largest(one, two) > 1e-3


@pytest.mark.parametrize('change', [{}, {'scan': False}, {'remat': 'full'}])
def test_lora_of_the_upper_layers_is_lora_with_zeros_below(change):
    config = replace(CONFIG, **change)
    model = build_classifier(config, get_method('lora'), 5, first_layer=1)
    assert model.backbone.seams == (1,)
    assert model.facts.cut == Cut(1)
    added = drawn(model.init_added, jax.random.key(0), scale=0.2)
    params = {'backbone': backbone_of(CONFIG, (1,)), **added}
    assert params['tuner']['layers']['qkv']['down'].shape == (2, 32, 8)
    got = model.apply(params, IMAGES)

    whole = build_classifier(config, get_method('lora'), 5)
    padded = jax.tree.map(lambda leaf: np.pad(leaf, ((1, 0), (0, 0), (0, 0))), params['tuner'])
    layers = jax.tree.map(np.asarray, unstack_layers(params['backbone']))
    backbone = stack_layers(layers, CONFIG.seams)
    want = whole.apply({**params, 'backbone': backbone, 'tuner': padded}, IMAGES)
    np.testing.assert_allclose(got, want, atol=1e-5)
    tokens = model.prefix(params['backbone'], IMAGES, Cut(1))
    np.testing.assert_allclose(model.apply(params, tokens, start=Cut(1)), got, atol=1e-5)


def test_layers_with_parameters_begin_at_a_seam():
    tuner = LoRA(first_layer=1)
    with pytest.raises(ValueError, match=r'seams=\(1, 3\)'):
        features(CONFIG, backbone_of(), tuner, tuner.init(jax.random.key(0), SPEC))


@pytest.mark.parametrize('faithful', [True, False])
def test_of_the_faithful_adapter_only_the_upper_bias_ever_learns(faithful):
    tuner, backbone = Adapter(hidden=8, faithful=faithful), backbone_of()
    params = tuner.init(jax.random.key(0), SPEC)

    def loss(params):
        return jnp.sum(features(CONFIG, backbone, tuner, params)[:, 0])

    for _ in range(3):
        grads = jax.grad(loss)(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    learns = {path for path, leaf in flatten(grads).items() if np.asarray(leaf).any()}
    everything = {f'layers/{w}/{leaf}' for w in ('down', 'up') for leaf in ('kernel', 'bias')}
    assert learns == ({'layers/up/bias'} if faithful else everything)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: LoRA(rank=0), 'rank is 0; at least 1'),
        (lambda: LoRA(scale=0.0), 'scale is 0.0; allowed: positive'),
        (lambda: LoRA(first_layer=-1), 'first_layer is -1; at least 0'),
        (lambda: LoRA(dropout_rate=1.0), r'dropout_rate is 1.0; allowed: \[0, 1\)'),
        (lambda: LoRA(parts='q,w'), "parts is 'q,w'; allowed: qkv, q, k"),
        (lambda: LoRA(parts=''), "parts is ''; allowed"),
        (lambda: LoRA(parts=('q', 'v')), r"parts is \('q', 'v'\); allowed"),
        (lambda: LoRA(parts='qkv,v'), "parts is 'qkv,v', which names a projection twice"),
        (lambda: LoRA(parts='mlp,fc1'), 'twice'),
        (lambda: LoRA(first_layer=3).facts(SPEC), 'first_layer is 3; .* allowed: 0 to 2'),
        (lambda: LoRA().init(jax.random.key(0), replace(SPEC, sites={})), "no projection 'qkv'"),
        (lambda: Adapter(hidden=0), 'hidden is 0; at least 1'),
        (lambda: Adapter().init(jax.random.key(0), replace(SPEC, sites={})), "no site 'mlp'"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_tuner_that_adds_nothing_has_no_parameters_in_any_segment():
    assert segment({}, (0, 3), Tuner().facts(SPEC), SPEC) == {}
