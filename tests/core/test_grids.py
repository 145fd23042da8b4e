"""A choice at the end of a grid is told."""

import pytest

from jax_prompt.core.grids import edge_of, edges


@pytest.mark.parametrize(
    ('grid', 'value', 'edge'),
    [
        ((0.001, 0.003, 0.01), 0.01, 'highest'),
        ((0.01, 0.003, 0.001), 0.001, 'lowest'),
        ((0.001, 0.003, 0.01), 0.003, ''),
        ((0.0, 0.003, 0.01), 0.0, ''),  # nothing lies below
        ((0.001, 0.01), 0.01, ''),  # both values are ends
        ((), 0.01, ''),
    ],
)
def test_edge_of(grid, value, edge):
    assert edge_of(grid, value) == edge


def test_edges_name_what_was_chosen_at_an_end():
    grids = {'lr': (1.0, 2.0, 3.0), 'weight_decay': (0.0, 0.1, 0.2), 'other': (1.0, 2.0, 3.0)}
    assert edges({'lr': 3.0, 'weight_decay': 0.1, 'more': 5.0}, grids) == {'lr': 'highest'}
