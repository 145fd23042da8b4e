"""The order of an epoch, with and without its short last batch."""

import jax
import numpy as np
import pytest

from jax_prompt.train.members import epoch_order, num_steps


@pytest.mark.parametrize(
    ('count', 'size', 'drop', 'steps'),
    [(10, 4, False, 3), (10, 4, True, 2), (8, 4, False, 2), (8, 4, True, 2), (3, 4, False, 1)],
)
def test_number_of_steps(count, size, drop, steps):
    assert num_steps(count, size, drop) == steps


def test_a_set_smaller_than_a_batch_can_not_drop_it():
    with pytest.raises(ValueError, match=r'3 training images are fewer than batch_size 4'):
        num_steps(3, 4, True)


def test_a_dropped_batch_leaves_out_other_images_in_each_epoch():
    whole, _ = epoch_order(jax.random.key(0), 1, 10, 4, 3)
    rows, weights = epoch_order(jax.random.key(0), 1, 10, 4, 2)
    np.testing.assert_array_equal(rows, whole[:2])  # the same shuffle
    assert weights.shape == (2, 4) and weights.min() == 1.0
    assert len(set(rows.ravel())) == 8
    left_out = {
        tuple(sorted(set(range(10)) - {*epoch_order(jax.random.key(0), e, 10, 4, 2)[0].ravel()}))
        for e in range(6)
    }
    assert len(left_out) > 1
