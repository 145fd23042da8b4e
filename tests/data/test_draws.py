"""Subsets: deterministic, disjoint, stratified."""

import numpy as np
import pytest

from jax_prompt.data.draws import Draw, complete, fraction, per_class, stratified_split

LABELS = np.random.RandomState(0).permutation(np.repeat(np.arange(5), [10, 20, 30, 33, 7]))


@pytest.mark.parametrize('share', [0.0, 0.1, 0.2, 1 / 3, 0.5, 0.9])
def test_split_is_a_partition_with_each_class_in_its_share(share):
    kept, taken = stratified_split(LABELS, share, 0)
    assert np.array_equal(np.sort(np.concatenate([kept, taken])), np.arange(100))
    assert len(taken) == round(share * 100)
    for one in range(5):
        exact = share * (one == LABELS).sum()
        assert abs((LABELS[taken] == one).sum() - exact) <= 1


def test_split_depends_on_the_seed_alone():
    first, again, other = (stratified_split(LABELS, 0.2, seed)[1] for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    # The draw never changes: results of different machines and versions are comparable.
    assert stratified_split(np.repeat([0, 1], 5), 0.4, 0)[1].tolist() == [0, 2, 5, 7]


def test_every_class_keeps_one():
    labels = np.array([0, 0, 0, 0, 1, 2, 2])
    kept, taken = stratified_split(labels, 0.8, 0)
    assert set(labels[kept]) == {0, 1, 2} and 1 not in labels[taken]


@pytest.mark.parametrize('share', [-0.1, 1.0, 2.0])
def test_split_refuses_other_shares(share):
    with pytest.raises(ValueError, match=str(share)):
        stratified_split(LABELS, share, 0)


def test_per_class():
    index = per_class(LABELS, 7, 1)
    assert np.bincount(LABELS[index]).tolist() == [7] * 5
    assert len(set(index)) == 35 and np.array_equal(index, np.sort(index))
    assert np.array_equal(index, per_class(LABELS, 7, 1))
    with pytest.raises(ValueError, match='class 4 has 7'):
        per_class(LABELS, 8, 1)
    with pytest.raises(ValueError, match='0 examples'):
        per_class(LABELS, 0, 1)


def test_fraction():
    assert np.array_equal(fraction(LABELS, 1.0, 0), np.arange(100))
    index = fraction(LABELS, 0.3, 0)
    assert len(index) == 30 and set(LABELS[index]) == set(range(5))
    assert set(LABELS[fraction(LABELS, 0.01, 0)]) == set(range(5))
    with pytest.raises(ValueError, match='fraction is 0'):
        fraction(LABELS, 0, 0)


def test_complete_fills_what_is_missing():
    everything = {'train': np.arange(100)}
    out = complete(LABELS, everything, Draw(0.2, 0.1, 0))
    assert {name: len(index) for name, index in out.items()} == {'test': 10, 'val': 20, 'train': 70}
    assert np.array_equal(np.sort(np.concatenate(list(out.values()))), np.arange(100))
    assert 'test' not in complete(LABELS, everything, Draw(0.2, 0.0, 0))
    own = {'train': np.arange(60), 'val': np.arange(60, 80), 'test': np.arange(80, 100)}
    for name, index in complete(LABELS, own, Draw(0.2, 0.2, 0)).items():
        assert np.array_equal(index, own[name])


@pytest.mark.parametrize('val, test', [(0.0, 0.2), (0.6, 0.4), (-0.1, 0.0), (0.1, -0.1), (1.0, 0)])
def test_complete_refuses(val, test):
    with pytest.raises(ValueError, match='val_fraction'):
        complete(LABELS, {'train': np.arange(100)}, Draw(val, test, 0))


def test_too_few_images_to_take_val_from():
    with pytest.raises(ValueError, match='2 training images are too few'):
        complete(np.array([0, 1]), {'train': np.arange(2)}, Draw(0.2, 0.0, 0))
