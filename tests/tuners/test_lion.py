"""LION's blocks against closed forms, dense Jacobians and an unrolled network."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.spec import BackboneSpec
from jax_prompt.core.tree import count, flatten
from jax_prompt.core.tuner import Place
from jax_prompt.deq.fixed_point import Gradient
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier
from jax_prompt.tuners.equilibrium import EquilibriumBlock, with_penalty
from jax_prompt.tuners.lion import LION

CONFIG = ViTConfig(32, 3, 2, 64, 4, 16)


def _spec(family, dim):
    kind = {'num_heads': 0 if family == 'resnet' else 12, 'windowed': family == 'swin'}
    return BackboneSpec(family, 12, dim, dim, 224, 16, 196, **kind)


def _images(batch=3, side=16):
    return jax.random.normal(jax.random.key(1), (batch, side, side, 3))


def _grown(tuner, factor, spec=None):
    """Parameters with kernels `factor` times larger than at the start."""
    params = tuner.init(jax.random.key(0), spec or CONFIG.spec())
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * factor if path[-1].key == 'kernel' else leaf, params
    )


@pytest.mark.parametrize(
    ('family', 'dim', 'golden'),
    [('resnet', 2048, 96_702), ('vit', 768, 123_578), ('swin', 1024, 241_854)],
)
def test_counts_are_those_of_the_papers_tables(family, dim, golden):
    params = jax.eval_shape(lambda k: LION().init(k, _spec(family, dim)), jax.random.key(0))
    assert count(params) == golden


@pytest.mark.parametrize(('layers', 'blocks'), [(1, 1), (3, 3)])
def test_each_further_layer_adds_its_kernels_and_bias(layers, blocks):
    p1 = blocks * (2 * 27 * 64 + 64) + 3 + 3 + 2
    p2 = 32 * 71 + 71 + blocks * (2 * 71 * 71 + 71) + 71 * 32 + 32 + 2
    params = LION(layers=layers).init(jax.random.key(0), CONFIG.spec())
    assert count(params['shared']['p1']) == p1
    assert count(params['shared']['p2']) == p2


def test_starts_near_the_identity_on_the_image_and_at_its_gate_on_the_features():
    tuner = LION()
    params = tuner.init(jax.random.key(0), CONFIG.spec())
    place, x = Place(shared=params['shared']), _images()
    assert float(jnp.linalg.norm(tuner.image(place, x) - x) / jnp.linalg.norm(x)) < 0.1
    z = jax.random.normal(jax.random.key(2), (3, 32))
    beta = float(jax.nn.softmax(params['shared']['p2']['gates'])[1])
    assert beta == pytest.approx(0.1192, abs=1e-4)
    difference = tuner.features(place, z, z) - (1 - beta) * z
    assert float(jnp.linalg.norm(difference) / jnp.linalg.norm(z)) < 0.05


def test_image_and_features_follow_equations_1_to_3():
    tuner = LION(eval_rtol=1e-6, layers=2)
    params = _grown(tuner, 3.0)
    params['shared']['p1']['gates'] = jnp.array([0.3, 1.0])
    params['shared']['p1']['offset'] = jnp.array([0.1, 0.2, -0.3])
    x, place = _images(), Place(shared=params['shared'])
    p1, p2 = params['shared']['p1'], params['shared']['p2']

    def settle(block, params, x):
        weights, z = block.prepare({k: v for k, v in params.items() if 'layer_' in k}), x
        for _ in range(200):
            z = block.cell((weights, x), z)
        return z

    beta = np.exp(1.0) / (np.exp(0.3) + np.exp(1.0))
    z = settle(EquilibriumBlock(3, 64, 3, 2), p1, x)
    want = (1 - beta) * x + beta * (p1['scale'] * z + p1['offset'])
    np.testing.assert_allclose(tuner.image(place, x), want, atol=1e-5)

    features, raw = jax.random.normal(jax.random.key(2), (2, 3, 32))
    u = raw @ p2['into']['kernel'] + p2['into']['bias']
    h = settle(EquilibriumBlock(71, 71, 0, 2), p2, u)
    alpha, beta = jax.nn.softmax(p2['gates'])
    want = alpha * features + beta * (h @ p2['out']['kernel'] + p2['out']['bias'])
    np.testing.assert_allclose(tuner.features(place, features, raw), want, atol=1e-5)


def _jacobian(block, params, shape):
    z = jax.random.normal(jax.random.key(5), (1, *shape))
    x = jax.random.normal(jax.random.key(6), (1, *shape))
    dense = jax.jacobian(lambda z: block.cell((block.prepare(params), x), z).ravel())(z)
    return np.asarray(dense).reshape(z.size, z.size)


@pytest.mark.parametrize('kind', ['clipped', 'opteq'])
@pytest.mark.parametrize('layers', [1, 2])
@pytest.mark.parametrize(('side', 'shape'), [(3, (5, 5, 3)), (0, (12,))])
def test_blocks_are_contractions_however_large_their_kernels(kind, layers, side, shape):
    block = EquilibriumBlock(shape[-1], 16, side, layers, kind, 0.9)
    params = jax.tree.map(lambda leaf: 50.0 * leaf, block.init(jax.random.key(0)))
    norm = np.linalg.norm(_jacobian(block, params, shape), 2)
    assert norm <= 0.9 + 1e-5
    assert norm > 1e-3  # large kernels are scaled, not switched off
    free = replace(block, kappa=0.0)
    assert np.linalg.norm(_jacobian(free, params, shape), 2) > 1.0


def test_opteq_has_a_symmetric_jacobian():
    block = EquilibriumBlock(3, 8, 3, kind='opteq')
    jacobian = _jacobian(block, block.init(jax.random.key(0)), (4, 4, 3))
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-7)
    assert np.linalg.norm(jacobian, 2) > 0.01


def test_small_kernels_are_not_clipped():
    block = EquilibriumBlock(3, 8, 3)
    params = block.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, block.prepare(params), params)


def test_the_tutorials_block_is_the_tutorials_formula():
    block = EquilibriumBlock(3, 16, 3, kind='tutorial')
    params = jax.tree.map(lambda a: 20.0 * a, block.init(jax.random.key(0)))['layer_00']
    z, x = _images(2, 6), _images(2, 6)[::-1]

    def norm(x, groups, p):
        grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
        mean = grouped.mean((1, 3), keepdims=True)
        std = np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-5)
        return ((grouped - mean) / std).reshape(x.shape) * p['scale'] + p['bias']

    def conv(x, kernel):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = [padded[:, i : i + 6, j : j + 6] for i in range(3) for j in range(3)]
        return sum(
            w @ k for w, k in zip(windows, kernel.reshape(9, *kernel.shape[2:]), strict=True)
        )

    p = jax.tree.map(np.asarray, params)
    z, x = np.asarray(z), np.asarray(x)
    inner = norm(np.maximum(conv(z, p['in']['kernel']), 0), 8, p['norm1'])
    y = norm(x + conv(inner, p['out']['kernel']), 3, p['norm2'])
    want = norm(np.maximum(z + y, 0), 3, p['norm3'])
    np.testing.assert_allclose(block.cell(({'layer_00': params}, x), z), want, atol=2e-4)


def _loss(classifier, params, x, train=True, **kwargs):
    logits = classifier.apply(params, x, train=train, key=jax.random.key(4), **kwargs)
    return jnp.mean(jnp.square(logits - 1.0))


def test_gradients_equal_those_of_the_unrolled_network(monkeypatch):
    options = {'rtol': 1e-6, 'backward_rtol': 1e-6, 'max_iter': 60, 'backward_max_iter': 60}
    classifier = build_classifier(CONFIG, get_method('lion'), 5, **options)
    params = classifier.init(jax.random.key(0))
    params['tuner'] = _grown(classifier.tuner, 3.0)
    x = _images()
    implicit = jax.grad(lambda t: _loss(classifier, {**params, 'tuner': t}, x))(params['tuner'])

    def unrolled(f, args, z0, forward, backward, probe):
        z = z0
        for _ in range(60):
            z = f(args, z)
        return z

    monkeypatch.setattr('jax_prompt.tuners.lion.fixed_point', unrolled)
    plain = jax.grad(lambda t: _loss(classifier, {**params, 'tuner': t}, x))(params['tuner'])
    for path, leaf in flatten(plain).items():
        scale = float(jnp.max(jnp.abs(leaf)))
        assert scale > 0, path
        np.testing.assert_allclose(flatten(implicit)[path] / scale, leaf / scale, atol=2e-4)


def test_the_raw_feature_is_computed_where_it_is_not_given():
    classifier = build_classifier(CONFIG, get_method('lion'), 5)
    params = classifier.init(jax.random.key(0))
    raw = classifier.raw_features(params['backbone'], _images())
    assert raw.shape == (3, 32)
    with_raw = classifier.apply(params, _images(), raw=raw)
    np.testing.assert_allclose(classifier.apply(params, _images()), with_raw, atol=1e-6)
    other = classifier.apply(params, _images(), raw=raw + 1.0)
    assert float(jnp.max(jnp.abs(other - with_raw))) > 1e-4


@pytest.mark.parametrize('seen', ['raw', 'prompted', 'image'])
def test_each_input_of_p2_reaches_it(seen):
    classifier = build_classifier(CONFIG, get_method('lion'), 5, input=seen)
    params = classifier.init(jax.random.key(0))
    grads = jax.grad(lambda p: _loss(classifier, p, _images()))(params)['tuner']
    assert float(jnp.max(jnp.abs(grads['shared']['p2']['into']['kernel']))) > 0
    assert classifier.facts.needs_raw == (seen == 'raw')


@pytest.mark.parametrize('kind', ['implicit', 'one_step', 'phantom', 'neumann'])
@pytest.mark.parametrize('block', ['clipped', 'opteq', 'tutorial'])
def test_probes_report_both_solves_of_both_blocks(kind, block):
    classifier = build_classifier(CONFIG, get_method('lion'), 5, gradient=kind, block=block)
    params, tuner = classifier.init(jax.random.key(0)), classifier.tuner
    seen = jax.grad(lambda p: _loss(classifier, params, _images(), probes=p))(tuner.probes(3))
    got = tuner.diagnose(seen, jnp.array([1.0, 1.0, 0.0]))
    assert {name.split('_')[0] for name in got} == {'p1', 'p2'}
    for name in ('p1', 'p2'):
        assert float(got[f'{name}_forward_steps']) > 1
        assert float(got[f'{name}_backward_steps']) >= 1
        assert float(got[f'{name}_forward_residual_worst']) <= 1e-3 or block == 'tutorial'
        assert float(got[f'{name}_forward_converged']) == 1.0 or block == 'tutorial'


def test_diagnoses_leave_padding_out():
    tuner = LION()
    seen = {'p1': jnp.array([[3.0, 0.1, 0, 5, 0.2, 1], [9.0, 9.0, 2, 9, 9.0, 2]])}
    got = tuner.diagnose(seen, jnp.array([1.0, 0.0]))
    assert float(got['p1_forward_residual_worst']) == pytest.approx(0.1)
    assert float(got['p1_forward_steps']) == 3.0
    assert (float(got['p1_forward_converged']), float(got['p1_backward_converged'])) == (1.0, 0.0)


def test_a_block_that_diverges_yields_finite_values_and_says_so():
    tuner = LION(kappa=0.0, max_iter=20)
    params = _grown(tuner, 400.0)
    place = Place(shared=params['shared'], train=True, probe=tuner.probes(3))

    def loss(probe):
        return jnp.sum(jnp.square(tuner.image(replace(place, probe=probe), _images())))

    assert np.isfinite(float(loss(place.probe)))
    got = tuner.diagnose(jax.grad(loss)(place.probe), jnp.ones(3))
    assert float(got['p1_forward_converged']) == 0.0


def test_the_memory_of_a_gradient_does_not_depend_on_the_iterations():
    def scratch(steps):
        solver = {'max_iter': steps, 'backward_max_iter': steps, 'rtol': 0.0, 'backward_rtol': 0.0}
        classifier = build_classifier(CONFIG, get_method('lion'), 5, channels=8, width=8, **solver)
        params = jax.eval_shape(classifier.init, jax.random.key(0))
        x = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float32)
        grad = jax.jit(jax.grad(lambda p, x: _loss(classifier, p, x)))
        return grad.lower(params, x).compile().memory_analysis().temp_size_in_bytes

    assert scratch(5) == scratch(20) == scratch(80) > 0


def test_the_jacobian_penalty_is_added_to_the_gradient():
    def loss(x):
        return 7.0 * jnp.sum(with_penalty(jnp.sin(x), 0.5 * jnp.sum(x**3)))

    x = jnp.array([0.3, -1.2])
    np.testing.assert_allclose(jax.grad(loss)(x), 7.0 * jnp.cos(x) + 1.5 * x**2, rtol=1e-6)
    options = {'kappa': 0.0, 'feature_block': False}
    plain = build_classifier(CONFIG, get_method('lion'), 5, **options)
    penalised = build_classifier(CONFIG, get_method('lion'), 5, jacobian=10.0, **options)
    params = plain.init(jax.random.key(0))
    one, two = (jax.grad(lambda p, m=m: _loss(m, p, _images()))(params) for m in (plain, penalised))
    kernel = lambda g: g['tuner']['shared']['p1']['layer_00']['in']['kernel']  # noqa: E731
    assert float(jnp.max(jnp.abs(kernel(one) - kernel(two)))) > 1e-4


def test_without_p1_training_starts_at_the_features():
    method = get_method('lion')
    spec = CONFIG.spec()
    assert LION().facts(spec).cut.at_image
    assert LION(image_block=False).facts(spec).cut.block > spec.num_layers
    assert LION(image_block=False, input='image').facts(spec).cut.at_image
    model = build_classifier(CONFIG, method, 5, image_block=False)
    params = model.init(jax.random.key(0))
    features = model.prefix(params['backbone'], _images(), model.facts.cut)
    got = model.apply(params, features, start=model.facts.cut)
    np.testing.assert_allclose(got, model.apply(params, _images()), atol=1e-5)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'image_block': False, 'feature_block': False}, 'both False'),
        ({'layers': 5}, 'layers is 5'),
        ({'block': 'resnet'}, "block is 'resnet'"),
        ({'input': 'z'}, "input is 'z'"),
        ({'kappa': 1.0}, 'kappa is 1.0'),
        ({'solver': 'newton'}, "'newton'"),
        ({'gradient': 'exact'}, "'exact'"),
        ({'max_iter': 0}, 'max_iter is 0'),
        ({'jacobian': -1.0}, 'jacobian is -1.0'),
        ({'channels': 0}, 'channels is 0'),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LION(**options)


def test_options_reach_the_solvers():
    tuner = LION(rtol=0.5, max_iter=3, backward_rtol=0.25, backward_max_iter=4, gradient='phantom')
    backward = tuner._backward()
    assert isinstance(backward, Gradient)
    assert (backward.kind, backward.solver.max_iter, backward.solver.rtol) == ('phantom', 4, 0.25)
    assert tuner._forward(train=True).max_iter == 3
    assert tuner._forward(train=False).max_iter == 60


def test_no_gradient_passes_through_the_raw_features():
    """Neither where the tuner takes them, nor where the model computes them."""
    tuner = LION()
    params = tuner.init(jax.random.key(0), CONFIG.spec())
    place = Place(shared=params['shared'])
    z = jax.random.normal(jax.random.key(2), (3, 32))
    taken = jax.grad(lambda raw: jnp.sum(tuner.features(place, z, raw) ** 2))(z)
    np.testing.assert_array_equal(taken, 0.0)
    model = build_classifier(CONFIG, get_method('lion'), 5)
    backbone = model.init(jax.random.key(0))['backbone']
    total = lambda tree, x: jnp.sum(model.raw_features(tree, x) ** 2)  # noqa: E731
    for leaf in jax.tree.leaves(jax.jit(jax.grad(total, argnums=(0, 1)))(backbone, _images())):
        np.testing.assert_array_equal(leaf, 0.0)
