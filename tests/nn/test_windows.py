"""Windows against their definition, written out patch by patch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.nn.attention import attend_windows
from jax_prompt.nn.windows import (
    from_windows,
    plain_and_shifted,
    resize_relative_bias,
    to_windows,
)

SHAPES = [(8, 4), (6, 4), (4, 4), (5, 2), (9, 3)]


@pytest.mark.parametrize(('grid', 'window'), SHAPES)
def test_windows_are_shifted_and_padded_squares(grid, window):
    windows = plain_and_shifted(grid, window)
    assert len(windows.table) == (1 if window >= grid else 2)
    side = -(-grid // window) * window
    for odd, table in enumerate(windows.table):
        shift = odd * (window // 2)
        image = np.full((side, side), grid * grid)
        image[:grid, :grid] = np.arange(grid * grid).reshape(grid, grid)
        image = np.roll(image, (-shift, -shift), (0, 1))
        count = side // window
        want = [
            image[r * window : (r + 1) * window, c * window : (c + 1) * window].ravel()
            for r in range(count)
            for c in range(count)
        ]
        np.testing.assert_array_equal(table, np.concatenate(want))


@pytest.mark.parametrize(('grid', 'window'), [(8, 4), (6, 4), (9, 3)])
def test_patches_of_a_shifted_window_see_those_that_were_neighbours(grid, window):
    """Apart are patches that only the cyclic shift brings together: a window's reach is short."""
    windows = plain_and_shifted(grid, window)
    side = -(-grid // window) * window
    shift = window // 2
    table, region = windows.table[1], windows.region[1]
    assert not windows.region[0].any()
    rows = np.arange(side * side).reshape(side, side)
    rows = np.roll(rows, (-shift, -shift), (0, 1))  # the padded patch at each place
    count = side // window
    rows = rows.reshape(count, window, count, window).swapaxes(1, 2).reshape(-1, window**2)
    down, right = np.divmod(rows, side)
    near = np.abs(down[:, :, None] - down[:, None, :]) < window
    near &= np.abs(right[:, :, None] - right[:, None, :]) < window
    np.testing.assert_array_equal(region[:, :, None] == region[:, None, :], near)
    assert table.shape == (rows.size,)


@pytest.mark.parametrize(('grid', 'window'), SHAPES)
def test_gathers_are_inverse_and_have_each_others_gradients(grid, window):
    windows = plain_and_shifted(grid, window)
    table, inverse = windows.table[-1], windows.inverse[-1]
    padded = len(table) > grid * grid
    x = jax.random.normal(jax.random.key(0), (2, grid * grid + padded, 3))
    there = to_windows(x, table, inverse)
    back = from_windows(there, table, inverse)
    np.testing.assert_array_equal(back, x[:, : grid * grid])
    g = jax.random.normal(jax.random.key(1), there.shape)
    want = jax.vjp(lambda x: x[:, table], x)[1](g)[0]
    got = jax.vjp(lambda x: to_windows(x, table, inverse), x)[1](g)[0]
    np.testing.assert_allclose(got, want, atol=1e-5)
    want = jax.vjp(lambda x: x[:, inverse], there)[1](back)[0]
    got = jax.vjp(lambda x: from_windows(x, table, inverse), there)[1](back)[0]
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize('count', [1, 3])
def test_attention_in_windows_and_its_gradients(count):
    keys = jax.random.split(jax.random.key(0), 5)
    q = jax.random.normal(keys[0], (6, 2, 5, 4))
    k, v = (jax.random.normal(key, (6, 2, 7, 4)) for key in keys[1:3])
    bias = jax.random.normal(keys[3], (count, 2, 5, 7))
    g = jax.random.normal(keys[4], q.shape)

    def plain(q, k, v, bias):
        scores = jnp.einsum('bhtd,bhsd->bhts', q, k) / 2.0 + jnp.tile(bias, (6 // count, 1, 1, 1))
        return jnp.einsum('bhts,bhsd->bhtd', jax.nn.softmax(scores, axis=-1), v)

    want, pull = jax.vjp(plain, q, k, v, bias)
    got, own = jax.vjp(attend_windows, q, k, v, bias)
    np.testing.assert_allclose(got, want, atol=1e-6)
    for a, b in zip(own(g), pull(g), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_constant_bias_stays_constant_and_wrong_tables_are_named():
    flat = resize_relative_bias(np.full((49, 2), 3.0, np.float32), 7)
    assert flat.shape == (169, 2)
    np.testing.assert_allclose(flat, 3.0, atol=1e-6)
    with pytest.raises(ValueError, match='48 relative position biases are of no square window'):
        resize_relative_bias(np.zeros((48, 2), np.float32), 7)
