"""Partial-k, MLP-k, side-tuning, SNF, moment probing, and combinations of methods."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import drawn

from jax_prompt.backbones.vit import ViT
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.spec import FEATURES, IMAGE, BackboneSpec
from jax_prompt.core.tree import count, flatten, split, stack_layers, unstack_layers
from jax_prompt.core.tuner import Place
from jax_prompt.methods import METHODS, get_method
from jax_prompt.model import build_classifier
from jax_prompt.tuners.compose import Compose
from jax_prompt.tuners.lora import LoRA
from jax_prompt.tuners.mlp import MLPHead
from jax_prompt.tuners.moment import MomentProbing
from jax_prompt.tuners.partial import Partial
from jax_prompt.tuners.sidetune import SideTune
from jax_prompt.tuners.snf import SNF
from jax_prompt.tuners.vpt import VPT

CONFIG = ViTConfig(32, 3, 2, 64, 4, 16)
VIT_B = ViTConfig(768, 12, 12, 3072, 16, 224)


def _images(batch=3):
    return np.random.default_rng(1).standard_normal((batch, 16, 16, 3)).astype(np.float32)


@cache
def _layers():
    """Random parameters of the backbone, each layer's as a subtree."""
    return unstack_layers(drawn(ViT(CONFIG).init, jax.random.key(0), _images())['params'])


def _model(name, **options):
    model = build_classifier(CONFIG, get_method(name), 5, **options)
    backbone = stack_layers(_layers(), (*CONFIG.seams, *model.backbone.seams))
    return model, {'backbone': backbone, **model.init_added(jax.random.key(0))}


def _random_like(tree):
    flat = flatten(tree)
    keys = jax.random.split(jax.random.key(9), len(flat))
    leaves = [jax.random.normal(k, v.shape) for k, v in zip(keys, flat.values(), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _trained(model, params, method):
    trains = method.predicate(model.tuner, model.spec)
    return flatten(split(params, trains)[0].get('backbone', {}))


@pytest.mark.parametrize('last', [1, 2, 3])
def test_partial_trains_the_last_blocks_and_the_norm(last):
    model, params = _model('partial', last=last)
    trained = _trained(model, params, get_method('partial'))
    groups = {path.split('/')[0] for path in trained}
    before = {f'blocks_{3 - last:02d}_02'} if last > 1 else set()
    assert groups == {*before, 'blocks_02_03', 'norm'}
    block = 4 * 32 + 32 * 96 + 96 + 33 * 32 + 33 * 64 + 65 * 32
    assert count(trained) == last * block + 64
    assert model.facts.cut.block == 3 - last


def test_bias_trains_every_bias_and_nothing_else():
    model, params = _model('bias')
    trained = _trained(model, params, get_method('bias'))
    assert count(trained) == 32 + 3 * (32 + 96 + 32 + 32 + 64 + 32) + 32
    assert all(path.endswith('/bias') for path in trained)


@pytest.mark.parametrize(('layers', 'golden'), [(2, 592_128), (3, 1_184_256), (9, 4_737_024)])
def test_counts_of_mlp_heads_on_vit_b(layers, golden):
    params = jax.eval_shape(lambda k: MLPHead(layers).init(k, VIT_B.spec()), jax.random.key(0))
    assert count(params) == golden == (layers - 1) * (768 * 768 + 3 * 768)


def test_an_mlp_head_is_its_layers_one_after_the_other():
    torch = pytest.importorskip('torch', reason='torch is not installed')
    tuner = MLPHead(3)
    shared = _random_like(tuner.init(jax.random.key(0), CONFIG.spec())['shared'])
    x = jax.random.normal(jax.random.key(2), (4, 32))
    as_torch = {k: torch.tensor(np.asarray(v)) for k, v in flatten(shared).items()}
    y = torch.tensor(np.asarray(x))
    for i in range(2):
        kernel, bias = as_torch[f'hidden_{i:02d}/kernel'], as_torch[f'hidden_{i:02d}/bias']
        y = torch.relu(y @ kernel + bias)
        scale, shift = as_torch[f'norm_{i:02d}/scale'], as_torch[f'norm_{i:02d}/bias']
        y = torch.nn.functional.layer_norm(y, (32,), scale, shift, 1e-5)
    got = tuner.features(Place(shared=shared), x, None)
    np.testing.assert_allclose(got, y.numpy(), atol=2e-5)


def test_dropout_acts_in_training_only():
    tuner = MLPHead(2, dropout_rate=0.5)
    shared = tuner.init(jax.random.key(0), CONFIG.spec())['shared']
    x = jax.random.normal(jax.random.key(2), (4, 32))
    plain = tuner.features(Place(shared=shared, key=jax.random.key(3)), x, None)
    dropped = tuner.features(Place(shared=shared, key=jax.random.key(3), train=True), x, None)
    np.testing.assert_array_equal(tuner.features(Place(shared=shared), x, None), plain)
    assert 0.3 < float(jnp.mean(dropped == 0.0)) < 0.7


def test_sidetune_blends_the_raw_feature_and_its_own_network():
    torch = pytest.importorskip('torch', reason='torch is not installed')
    model, params = _model('sidetune', width=4, depth=2)
    shared = _random_like(params['tuner']['shared'])
    images, raw = _images(), jax.random.normal(jax.random.key(2), (3, 32))
    side = torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)
    for i in range(2):
        kernel = torch.tensor(np.asarray(shared[f'conv_{i:02d}']['kernel'])).permute(3, 2, 0, 1)
        bias = torch.tensor(np.asarray(shared[f'conv_{i:02d}']['bias']))
        side = torch.relu(torch.nn.functional.conv2d(side, kernel, bias, 2, padding=1))
    out = {k: np.asarray(v) for k, v in shared['out'].items()}
    side = side.mean((2, 3)).numpy() @ out['kernel'] + out['bias']
    share = 1.0 / (1.0 + np.exp(-float(shared['gates'])))
    want = share * raw + (1.0 - share) * side
    got = model.tuner.features(Place(shared=shared, image=images), raw, raw)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_with_its_raw_features_at_hand_sidetune_does_not_run_the_backbone():
    model, params = _model('sidetune', width=4, depth=2)
    raw = model.raw_features(params['backbone'], _images())
    whole = model.apply(params, _images())
    without = {**params, 'backbone': jax.tree.map(lambda leaf: leaf * jnp.nan, params['backbone'])}
    np.testing.assert_allclose(model.apply(without, _images(), raw=raw), whole, atol=1e-5)
    with pytest.raises(ValueError, match='needs the image'):
        model.apply(params, raw, start=FEATURES)


@pytest.mark.parametrize('kind', ['affine', 'planar'])
@pytest.mark.parametrize('flows', [1, 2])
def test_snf_starts_as_the_identity(kind, flows):
    model, params = _model('snf', kind=kind, flows=flows)
    bare = build_classifier(CONFIG, get_method('linear'), 5)
    want = bare.apply({k: params[k] for k in ('backbone', 'head')}, _images())
    np.testing.assert_allclose(model.apply(params, _images()), want, atol=1e-5)
    each = 2 * 32 if kind == 'affine' else 2 * 32 + 1
    assert count(params['tuner']) == 3 * 2 * flows * each


def test_snf_maps_the_shortcut_and_not_the_branch():
    """With branches that yield 0, the network is the product of its shortcuts' scales."""
    _, params = _model('snf')
    zero = lambda path, x: x * (path[-2].key not in ('proj', 'fc2'))  # noqa: E731
    for name in ('blocks_00_02', 'blocks_02_03'):
        segment = params['backbone'][name]
        params['backbone'][name] = jax.tree_util.tree_map_with_path(zero, segment)
    layers = params['tuner']['layers']
    layers['shortcut1']['scale'] *= 2.0
    layers['shortcut2']['offset'] += 1.0
    seen = []

    class Watch(SNF):
        def after(self, place, site, x, y):
            y = super().after(place, site, x, y)
            if site == 'block':
                jax.debug.callback(lambda a, b: seen.append((a, b)), x, y, ordered=True)
            return y

    watched = build_classifier(CONFIG, get_method('snf'), 5)
    object.__setattr__(watched, 'tuner', Watch())
    watched.apply(params, _images())
    jax.effects_barrier()
    assert len(seen) == 3
    for x, y in seen:
        np.testing.assert_allclose(y, 2.0 * x + 1.0, atol=1e-5)


def test_a_planar_flow_is_invertible_for_any_parameters():
    tuner = SNF('planar')
    params = jax.tree.map(
        lambda x: 5.0 * x, _random_like(tuner.init(jax.random.key(0), CONFIG.spec()))
    )
    own = jax.tree.map(lambda leaf: leaf[0], params['layers'])

    def one(x):
        return tuner.after(Place(params=own), 'shortcut1', x, x)

    for x in jax.random.normal(jax.random.key(2), (8, 32)):
        assert float(jnp.linalg.slogdet(jax.jacobian(one)(x))[0]) == 1.0


def test_moments_are_cross_covariances_of_the_final_tokens():
    model, params = _model('mp', width=8, heads=2)
    assert model.facts.feature_dim == 32 + 32
    assert params['head']['kernel'].shape == (64, 5)
    tokens = np.asarray(jax.random.normal(jax.random.key(2), (3, 17, 32)))
    features = np.zeros((3, 32), np.float32)
    shared = params['tuner']['shared']
    got = model.tuner.pool(Place(shared=shared), tokens, features)
    left, right = (tokens @ np.asarray(shared[k]['kernel']) for k in ('left', 'right'))
    for image in range(3):
        for head in range(2):
            part = np.s_[image, :, 4 * head : 4 * head + 4]
            joint = np.cov(left[part].T, right[part].T, bias=True)[:4, 4:]
            want = joint / np.sqrt(np.abs(joint) + 1e-2)
            mine = got[image, 32 + 16 * head : 48 + 16 * head].reshape(4, 4)
            np.testing.assert_allclose(mine, want, atol=1e-3)


@pytest.mark.parametrize('pool', ['cls', 'mean'])
def test_moment_probing_keeps_the_pooled_feature_first(pool):
    config = ViTConfig(32, 3, 2, 64, 4, 16, pool=pool, norm_after_pool=pool == 'mean')
    model = build_classifier(config, get_method('mp'), 5)
    params = drawn(model.init, jax.random.key(0))
    features = model.backbone.apply(
        {'params': params['backbone']}, _images(), model.tuner, params['tuner']
    )
    bare = model.backbone.apply({'params': params['backbone']}, _images())
    np.testing.assert_allclose(features[:, :32], bare, atol=1e-5)


def test_parts_of_a_combination_act_as_each_would():
    name = 'vpt_deep+lora'
    model, params = _model(name, vpt_deep={'num_prompts': 4}, lora={'rank': 2})
    alone, _ = _model('vpt_deep', num_prompts=4)
    assert isinstance(model.tuner, Compose)
    prompts = {'layers': {'prompts': params['tuner']['layers']['vpt_deep']['prompts']}}
    want = alone.apply({**params, 'tuner': prompts}, _images())
    np.testing.assert_allclose(model.apply(params, _images()), want, atol=1e-5)  # LoRA starts at 0
    params['tuner']['layers']['lora'] = _random_like(params['tuner']['layers']['lora'])
    assert float(jnp.max(jnp.abs(model.apply(params, _images()) - want))) > 1e-3
    lora = count(jax.eval_shape(lambda k: LoRA(rank=2).init(k, CONFIG.spec()), jax.random.key(0)))
    assert count(params['tuner']) == 3 * 4 * 32 + lora


def test_a_combination_answers_for_all_its_parts():
    method = get_method('spt_deep+bias')
    model, params = _model('spt_deep+bias', spt_deep={'num_prompts': 2})
    assert method.calibrated
    assert model.tuner.trains('norm/bias', model.spec)
    assert not model.tuner.trains('norm/scale', model.spec)
    assert model.facts.cut == IMAGE
    prompts = jnp.ones((3, 2, 32))
    moved = model.tuner.calibrated(params['tuner'], prompts)
    np.testing.assert_array_equal(moved['layers']['spt_deep']['prompts'], prompts)
    seen = get_method('lion+lora')
    assert seen.transform_options().keys() == get_method('lion').transform_options().keys()
    both, _ = _model('lion+lora')
    assert both.facts.needs_raw
    assert set(both.tuner.probes(2)) == {'lion'}
    assert seen.with_prompts({}, 3)['lora'] == {}
    assert method.with_prompts({}, 3)['spt_deep'] == {'num_prompts': 3}


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('vpt_deep+lroa', "did you mean 'lora'"),
        ('lora+lora', 'can not be combined'),
        ('retrain+lora', 'can not be combined'),
    ],
)
def test_combinations_that_make_no_sense_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        get_method(name)


@pytest.mark.parametrize('name', ['vpt_deep+spt_shallow', 'lion+bias', 'mp+mlp'])
def test_parts_that_do_not_go_together_are_refused(name):
    with pytest.raises(ValueError, match=r'one part at most|trains the backbone|wider features'):
        get_method(name).make_tuner().facts(CONFIG.spec())


def test_a_part_has_its_own_options():
    with pytest.raises(ValueError, match="no part 'ssf'"):
        get_method('vpt_deep+lora').make_tuner(ssf={})
    with pytest.raises(ValueError, match="lora has no option 'rnk'"):
        get_method('vpt_deep+lora').make_tuner(lora={'rnk': 2})


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: Partial(0), 'last is 0'),
        (lambda: Partial(4).first_block(CONFIG.spec()), 'last is 4'),
        (lambda: MLPHead(1), 'layers is 1'),
        (lambda: MLPHead(norm='batch'), "norm is 'batch'"),
        (lambda: MLPHead(dropout_rate=1.0), 'dropout_rate is 1.0'),
        (lambda: SideTune(depth=0), 'depth is 0'),
        (lambda: SNF('radial'), "kind is 'radial'"),
        (lambda: SNF(flows=0), 'flows is 0'),
        (
            lambda: SNF().init(jax.random.key(0), BackboneSpec('resnet', 4, 8, 8, 32, 4, 64, 0)),
            'resnet has no sites',
        ),
        (lambda: MomentProbing(width=6, heads=4), 'width is 6'),
        (lambda: Compose((('a', VPT()), ('a', VPT()))), 'repeat a name'),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_row_has_a_summary_and_options_of_plain_values():
    for name, method in METHODS.items():
        assert method.name == name
        assert method.summary
        for value in method.options().values():
            assert isinstance(value, str | int | float | bool | tuple)
