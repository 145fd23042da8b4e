"""Products in bfloat16: float32 sums and results, forward and backward, and one rounding."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex

from jax_prompt.backbones.architectures import ARCHITECTURES
from jax_prompt.core.tuner import Place
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier
from jax_prompt.nn.attention import split_heads
from jax_prompt.nn.products import Dense, product


def _normal(seed, shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def test_a_product_in_float32_is_the_plain_one():
    x, kernel = _normal(0, (2, 3, 5)), _normal(1, (5, 4))
    np.testing.assert_allclose(product(x, kernel), x @ kernel, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('kept', ['float32', 'bfloat16'])
def test_a_product_in_bfloat16_rounds_once_each_way(kept):
    x, kernel = _normal(0, (2, 3, 40), jnp.bfloat16), _normal(1, (40, 4), kept)
    g = _normal(2, (2, 3, 4), jnp.bfloat16)
    y, pull = jax.vjp(product, x, kernel)
    dx, dkernel = pull(g)
    assert (y.dtype, dx.dtype, dkernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.dtype(kept))
    wide = [np.asarray(a.astype(jnp.bfloat16), np.float64) for a in (x, kernel, g)]
    exact = (
        wide[0] @ wide[1],
        wide[2] @ wide[1].T,
        np.einsum('btk,btn->kn', wide[0], wide[2]),
    )
    for mine, theirs in zip((y, dx, dkernel), exact, strict=True):
        step = 2.0**-8 if mine.dtype == jnp.bfloat16 else 1e-6  # half a unit in the last place
        np.testing.assert_allclose(np.asarray(mine, np.float64), theirs, rtol=step, atol=1e-5)


def test_the_gradient_of_split_heads_is_that_of_its_definition():
    x, g = _normal(0, (2, 5, 24)), [_normal(i, (2, 2, 5, 4)) for i in (1, 2, 3)]

    def plain(x):
        return tuple(jnp.moveaxis(x.reshape(2, 5, 3, 2, 4), (2, 3), (0, 2)))

    mine = jax.vjp(lambda x: split_heads(x, 2), x)[1](tuple(g))
    np.testing.assert_array_equal(mine, jax.vjp(plain, x)[1](tuple(g)))


def test_tokens_left_out_get_no_gradient():
    x, g = _normal(0, (2, 6, 3)), _normal(1, (2, 4, 3))
    place = Place(prompts_at=(1, 2))
    out, pull = jax.vjp(place.without_prompts, x)
    np.testing.assert_array_equal(out, x[:, (0, 3, 4, 5)])
    expected = np.zeros(x.shape, np.float32)
    expected[:, (0, 3, 4, 5)] = g
    np.testing.assert_array_equal(pull(g)[0], expected)


def test_a_dense_layer_has_the_parameters_that_files_fill():
    x = _normal(0, (2, 5))
    params = Dense(3).init(jax.random.key(1), x)['params']
    assert jax.tree.map(jnp.shape, params) == {'kernel': (5, 3), 'bias': (3,)}
    params['bias'] = jnp.arange(3.0)
    expected = x @ params['kernel'] + params['bias']
    np.testing.assert_allclose(Dense(3).apply({'params': params}, x), expected, rtol=1e-5)


def _equations(jaxpr):
    """Yields all equations of a jaxpr, those within others too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, jex.ClosedJaxpr):
                    yield from _equations(inner.jaxpr)
                elif isinstance(inner, jex.Jaxpr):
                    yield from _equations(inner)


@pytest.mark.parametrize('arch', ['vit_micro', 'swin_micro', 'resnet50', 'convnext_t_224'])
def test_every_product_of_a_backbone_in_bfloat16_has_a_float32_result(arch):
    config = replace(ARCHITECTURES[arch], dtype='bfloat16')
    model = build_classifier(config, get_method('bias'), 3)
    params = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, config.image_size, config.image_size, 3), jnp.float32)

    def loss(params, images):
        return jnp.sum(model.apply(params, images))

    jaxpr = jax.make_jaxpr(jax.grad(loss))(params, images)
    products = [e for e in _equations(jaxpr.jaxpr) if e.primitive.name == 'dot_general']
    halves = [e for e in products if any(v.aval.dtype == jnp.bfloat16 for v in e.invars)]
    assert len(halves) > 4
    for equation in halves:
        assert equation.outvars[0].aval.dtype == jnp.float32, equation
        assert all(v.aval.dtype == jnp.bfloat16 for v in equation.invars), equation
