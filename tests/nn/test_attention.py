import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.nn.attention import attend


def _plain(q, k, v, bias):
    scores = jnp.einsum('bhtd,bhsd->bhts', q, k) / jnp.sqrt(q.shape[-1])
    return jnp.einsum('bhts,bhsd->bhtd', jax.nn.softmax(scores + bias, axis=-1), v)


@pytest.mark.parametrize('own', [False, True])  # whether each image has a bias of its own
def test_attention_with_a_bias_on_its_keys(own):
    q, k, v, g = jax.random.normal(jax.random.key(0), (4, 2, 3, 5, 4))
    bias = jax.random.normal(jax.random.key(1), (2, 5) if own else (5,))
    bias = bias.at[..., 1:3].set(-jnp.inf)
    whole = bias[:, None, None] if own else bias
    got, pull = jax.vjp(lambda *args: attend(*args, bias), q, k, v)
    want, pull_plain = jax.vjp(lambda *args: _plain(*args, whole), q, k, v)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    for a, b in zip(pull(g), pull_plain(g), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for masked in pull(g)[1:]:
        np.testing.assert_array_equal(masked[:, :, 1:3], 0.0)
    kept = np.array([0, 3, 4])
    rest = attend(q, k[:, :, kept], v[:, :, kept], bias[..., kept])
    np.testing.assert_allclose(got, rest, rtol=1e-5, atol=1e-6)
