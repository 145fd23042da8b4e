"""LION against closed forms and an unrolled network."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from params import drawn

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


def _normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _images(batch=3, side=16):
    return _normal(1, batch, side, side, 3)


@cache
def _values(tuner):
    return jax.jit(partial(tuner.init, spec=CONFIG.spec()))(jax.random.key(0))


def _start(tuner):
    """The tuner's initial parameters; who changes them works on a copy."""
    # The other options say how to solve.
    names = ('image_block', 'feature_block', 'channels', 'width', 'layers', 'block', 'input')
    return _values(LION(**{name: getattr(tuner, name) for name in names}))


@cache
def _frozen():
    """Returns the parameters of a backbone and a head, which are any classifier's here."""
    params = drawn(build_classifier(CONFIG, get_method('linear'), 5).init, jax.random.key(0))
    return {name: params[name] for name in ('backbone', 'head')}


def _made(**options):
    """Returns a classifier and initial parameters."""
    classifier = build_classifier(CONFIG, get_method('lion'), 5, **options)
    return classifier, {**_frozen(), 'tuner': _start(classifier.tuner)}


def _grown(tuner, factor):
    """Parameters with kernels `factor` times larger than at the start."""
    params = jax.tree.map(np.asarray, _start(tuner))
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
    params = _start(LION(layers=layers))
    assert count(params['shared']['p1']) == p1
    assert count(params['shared']['p2']) == p2


@partial(jax.jit, static_argnames='tuner')
def _both(tuner, shared, x, features, raw):
    place = Place(shared=shared)
    return tuner.image(place, x), tuner.features(place, features, raw)


@partial(jax.jit, static_argnames='block')
def _settle(block, params, x):
    weights = block.prepare({k: v for k, v in params.items() if 'layer_' in k})
    return jax.lax.fori_loop(0, 200, lambda _, z: block.cell((weights, x), z), x)


def test_starts_near_the_identity_on_the_image_and_at_its_gate_on_the_features():
    tuner = LION()
    shared, x, z = _start(tuner)['shared'], _images(), _normal(2, 3, 32)
    image, features = _both(tuner, shared, x, z, z)
    assert np.linalg.norm(image - x) / np.linalg.norm(x) < 0.1
    alpha, beta = np.exp(np.asarray(shared['p2']['gates']))
    beta = beta / (alpha + beta)
    assert beta == pytest.approx(0.1192, abs=1e-4)
    assert np.linalg.norm(features - (1 - beta) * z) / np.linalg.norm(z) < 0.05


def test_image_and_features_follow_equations_1_to_3():
    tuner = LION(eval_rtol=1e-6, layers=2)
    params = _grown(tuner, 3.0)
    params['shared']['p1']['gates'] = np.array([0.3, 1.0], np.float32)
    params['shared']['p1']['offset'] = np.array([0.1, 0.2, -0.3], np.float32)
    p1, p2 = params['shared']['p1'], params['shared']['p2']
    x, features, raw = _images(), *_normal(2, 2, 3, 32)
    image, got = _both(tuner, params['shared'], x, features, raw)

    beta = np.exp(1.0) / (np.exp(0.3) + np.exp(1.0))
    z = np.asarray(_settle(EquilibriumBlock(3, 64, 3, 2), p1, x))
    want = (1 - beta) * x + beta * (p1['scale'] * z + p1['offset'])
    np.testing.assert_allclose(image, want, atol=1e-5)

    u = raw @ p2['into']['kernel'] + p2['into']['bias']
    h = np.asarray(_settle(EquilibriumBlock(71, 71, 0, 2), p2, u))
    alpha, beta = np.exp(p2['gates']) / np.exp(p2['gates']).sum()
    want = alpha * features + beta * (h @ p2['out']['kernel'] + p2['out']['bias'])
    np.testing.assert_allclose(got, want, atol=1e-5)


def _loss(classifier, params, x, train=True, **kwargs):
    logits = classifier.apply(params, x, train=train, key=jax.random.key(4), **kwargs)
    return jnp.mean(jnp.square(logits - 1.0))


def test_gradients_equal_those_of_the_unrolled_network(monkeypatch):
    options = {'rtol': 1e-6, 'backward_rtol': 1e-6, 'max_iter': 60, 'backward_max_iter': 60}
    classifier, params = _made(**options)
    grown, x = _grown(classifier.tuner, 3.0), _images()

    def gradients():
        loss = lambda tuner: _loss(classifier, {**params, 'tuner': tuner}, x)  # noqa: E731
        return flatten(jax.jit(jax.grad(loss))(grown))

    implicit = gradients()

    def unrolled(f, args, z0, forward, backward, probe):
        return jax.lax.scan(lambda z, _: (f(args, z), None), z0, length=60)[0]

    monkeypatch.setattr('jax_prompt.tuners.lion.fixed_point', unrolled)
    for path, leaf in gradients().items():
        scale = np.abs(leaf).max()
        assert scale > 0, path
        np.testing.assert_allclose(implicit[path] / scale, leaf / scale, atol=2e-4)


def test_the_raw_feature_is_computed_where_it_is_not_given():
    (classifier, params), x = _made(), _images()
    raw = np.asarray(classifier.raw_features(params['backbone'], x))
    assert raw.shape == (3, 32)
    with_raw = np.asarray(classifier.apply(params, x, raw=raw))
    np.testing.assert_allclose(classifier.apply(params, x), with_raw, atol=1e-6)
    other = np.asarray(classifier.apply(params, x, raw=raw + 1.0))
    assert np.abs(other - with_raw).max() > 1e-4


@pytest.mark.parametrize('seen', ['raw', 'prompted', 'image'])
def test_each_input_of_p2_reaches_it(seen):
    classifier, params = _made(input=seen)
    grads = jax.grad(partial(_loss, classifier))(params, _images())['tuner']
    assert np.abs(grads['shared']['p2']['into']['kernel']).max() > 0
    assert classifier.facts.needs_raw == (seen == 'raw')


_diagnose = jax.jit(LION.diagnose, static_argnums=0)


@pytest.mark.parametrize('kind', ['implicit', 'one_step', 'phantom', 'neumann'])
@pytest.mark.parametrize('block', ['clipped', 'opteq', 'tutorial'])
def test_probes_report_both_solves_of_both_blocks(kind, block):
    classifier, params = _made(gradient=kind, block=block)
    tuner, x = classifier.tuner, _images()
    seen = jax.grad(lambda p: _loss(classifier, params, x, probes=p))(tuner.probes(3))
    got = _diagnose(tuner, seen, np.array([1.0, 1.0, 0.0]))
    assert {name.split('_')[0] for name in got} == {'p1', 'p2'}
    for name in ('p1', 'p2'):
        assert float(got[f'{name}_forward_steps']) > 1
        assert float(got[f'{name}_backward_steps']) >= 1
        assert float(got[f'{name}_forward_residual_worst']) <= 1e-3 or block == 'tutorial'
        assert float(got[f'{name}_forward_converged']) == 1.0 or block == 'tutorial'


def test_diagnoses_leave_padding_out():
    tuner = LION()
    seen = {'p1': np.array([[3.0, 0.1, 0, 5, 0.2, 1], [9.0, 9.0, 2, 9, 9.0, 2]])}
    got = _diagnose(tuner, seen, np.array([1.0, 0.0]))
    assert float(got['p1_forward_residual_worst']) == pytest.approx(0.1)
    assert float(got['p1_forward_steps']) == 3.0
    assert (float(got['p1_forward_converged']), float(got['p1_backward_converged'])) == (1.0, 0.0)


def test_a_block_that_diverges_yields_finite_values_and_says_so():
    tuner = LION(kappa=0.0, max_iter=20)
    params = _grown(tuner, 400.0)
    place = Place(shared=params['shared'], train=True)

    def loss(probe):
        return jnp.sum(jnp.square(tuner.image(replace(place, probe=probe), _images())))

    @jax.jit
    def diagnose():
        value, grads = jax.value_and_grad(loss)(tuner.probes(3))
        return value, tuner.diagnose(grads, jnp.ones(3))

    value, got = diagnose()
    assert np.isfinite(value)
    assert float(got['p1_forward_converged']) == 0.0


def test_the_memory_of_a_gradient_does_not_depend_on_the_iterations():
    def scratch(steps):
        solver = {'max_iter': steps, 'backward_max_iter': steps, 'rtol': 0.0, 'backward_rtol': 0.0}
        classifier = build_classifier(CONFIG, get_method('lion'), 5, channels=8, width=8, **solver)
        params = jax.eval_shape(classifier.init, jax.random.key(0))
        x = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float32)
        loss = lambda own, rest, x: _loss(classifier, {**rest, 'tuner': own}, x)  # noqa: E731
        lowered = jax.jit(jax.grad(loss)).lower(params.pop('tuner'), params, x)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert scratch(5) == scratch(20) == scratch(80) > 0


def test_the_jacobian_penalty_is_added_to_the_gradient():
    def loss(x):
        return 7.0 * jnp.sum(with_penalty(jnp.sin(x), 0.5 * jnp.sum(x**3)))

    x = np.array([0.3, -1.2], np.float32)
    grads = jax.jit(jax.grad(loss))(x)
    np.testing.assert_allclose(grads, 7.0 * np.cos(x) + 1.5 * x**2, rtol=1e-6)
    options = {'kappa': 0.0, 'feature_block': False}
    (plain, params), (penalised, _) = _made(**options), _made(jacobian=10.0, **options)
    one, two = (jax.grad(partial(_loss, model))(params, _images()) for model in (plain, penalised))
    kernel = lambda g: g['tuner']['shared']['p1']['layer_00']['in']['kernel']  # noqa: E731
    assert np.abs(kernel(one) - kernel(two)).max() > 1e-4


def test_without_p1_training_starts_at_the_features():
    spec = CONFIG.spec()
    assert LION().facts(spec).cut.at_image
    assert LION(image_block=False).facts(spec).cut.block > spec.num_layers
    assert LION(image_block=False, input='image').facts(spec).cut.at_image
    model, params = _made(image_block=False)
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
    place, z = Place(shared=_start(tuner)['shared']), _normal(2, 3, 32)
    taken = jax.jit(jax.grad(lambda raw: jnp.sum(tuner.features(place, z, raw) ** 2)))(z)
    np.testing.assert_array_equal(taken, 0.0)
    model, params = _made()
    total = lambda tree, x: jnp.sum(model.raw_features(tree, x) ** 2)  # noqa: E731
    for leaf in jax.tree.leaves(
        jax.jit(jax.grad(total, argnums=(0, 1)))(params['backbone'], _images())
    ):
        np.testing.assert_array_equal(leaf, 0.0)
