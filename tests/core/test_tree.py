import jax
import numpy as np
import pytest

from jax_prompt.core import tree as trees


def _layers(count):
    one = lambda i: {'fc': {'kernel': np.full((2, 3), i, np.float32)}}  # noqa: E731
    return {'norm': {'scale': np.ones(4)}, **{f'block_{i:02d}': one(i) for i in range(count)}}


def test_flatten_and_unflatten_are_inverse():
    tree = {'b': {'c': 1, 'a': 2}, 'a': 3}
    assert trees.flatten(tree) == {'a': 3, 'b/a': 2, 'b/c': 1}
    assert trees.unflatten(trees.flatten(tree)) == tree


@pytest.mark.parametrize('flat', [{'a': 1, 'a/b': 2}, {'a/b': 2, 'a': 1}])
def test_a_path_is_a_leaf_or_a_subtree(flat):
    with pytest.raises(ValueError, match="'a"):
        trees.unflatten(flat)


def test_split_and_merge_are_inverse():
    tree = {'head': {'kernel': 1, 'bias': 2}, 'backbone': {'norm': {'scale': 3}}}
    trainable, frozen = trees.split(tree, lambda path: path.startswith('head/'))
    assert trainable == {'head': {'kernel': 1, 'bias': 2}}
    assert frozen == {'backbone': {'norm': {'scale': 3}}}
    assert trees.merge(trainable, frozen) == tree


def test_merge_refuses_a_leaf_in_two_trees():
    with pytest.raises(ValueError, match='a/b'):
        trees.merge({'a': {'b': 1}}, {'a': {'b': 2}})


def test_count_and_bytes():
    tree = {'a': np.zeros((2, 3), np.float32), 'b': np.zeros(5, np.float16)}
    assert trees.count(tree) == 11
    assert trees.num_bytes(tree) == 34


@pytest.mark.parametrize('seams', [(), (2,), (1, 3), (0, 5)])
def test_stacking_and_unstacking_layers_are_inverse(seams):
    tree = _layers(5)
    stacked = trees.stack_layers(tree, seams)
    for start, stop in trees.segments(5, seams):
        kernel = stacked[trees.segment_name(start, stop)]['fc']['kernel']
        np.testing.assert_array_equal(kernel[:, 0, 0], np.arange(start, stop))
    jax.tree.map(np.testing.assert_array_equal, trees.unstack_layers(stacked), tree)


@pytest.mark.parametrize('seams', [None, (), (1, 3)])
def test_layers_are_changed_one_by_one_in_either_form(seams):
    tree = _layers(4)
    if seams is not None:
        tree = trees.stack_layers(tree, seams)
    got = trees.map_layers(tree, lambda i, layer: jax.tree.map(lambda leaf: leaf + i, layer))
    assert got.keys() == tree.keys()
    for i in range(4):
        layer = trees.unstack_layers(got)[f'block_{i:02d}']
        np.testing.assert_array_equal(layer['fc']['kernel'], np.full((2, 3), 2 * i))
    np.testing.assert_array_equal(got['norm']['scale'], tree['norm']['scale'])


def test_leaves_are_put_one_by_one_under_their_paths():
    tree = _layers(3)
    seen = []
    out = trees.stack_layers(tree, (2,), lambda path, leaf: seen.append(path) or leaf.shape)
    assert trees.flatten(out) == {
        'blocks_00_02/fc/kernel': (2, 2, 3),
        'blocks_02_03/fc/kernel': (1, 2, 3),
        'norm/scale': (4,),
    }
    assert sorted(seen) == list(trees.flatten(out))


def test_layers_that_differ_need_a_seam():
    tree = _layers(3)
    tree['block_02']['extra'] = np.ones(2)
    with pytest.raises(ValueError, match='layers 0 to 2 differ'):
        trees.stack_layers(tree)
    assert 'extra' in trees.stack_layers(tree, (2,))['blocks_02_03']
    tree = _layers(2)
    tree['block_01']['fc']['kernel'] = np.ones((1, 3), np.float32)
    with pytest.raises(ValueError, match='shape'):
        trees.stack_layers(tree)


def test_missing_layers_and_seams_outside_are_named():
    tree = _layers(3)
    del tree['block_01']
    with pytest.raises(ValueError, match=r'\[0, 2\]'):
        trees.stack_layers(tree)
    with pytest.raises(ValueError, match=r'\[7\]'):
        trees.segments(3, (7,))
