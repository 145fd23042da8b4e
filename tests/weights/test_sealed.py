"""Trees with a checksum: what was written comes back, and all else is refused by name."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from jax_prompt.core.mapped import dtype_of
from jax_prompt.core.tree import flatten
from jax_prompt.weights.sealed import is_of_kind, is_whole, read_sealed, write_sealed

TREE = {
    'head': {'kernel': np.arange(6, dtype=np.float32).reshape(2, 3), 'bias': np.float32(2)},
    'tuner': {'half': np.ones(3, dtype_of('bfloat16')), 'none': np.zeros((0, 4), np.float32)},
}
INFO = {'epoch': 3, 'of': ['ä', None, 0.5]}


@pytest.fixture
def path(tmp_path):
    write_sealed(tmp_path / 'a', 'snapshot', TREE, INFO)
    return tmp_path / 'a'


def test_what_was_written_comes_back(path):
    got = read_sealed(path, 'snapshot', 'again')
    assert got.info == INFO and got.leaves.keys() == flatten(TREE).keys()
    for name, leaf in flatten(TREE).items():
        assert got.leaves[name].dtype == leaf.dtype and got.leaves[name].shape == leaf.shape
        np.testing.assert_array_equal(got.leaves[name], leaf)


def test_what_diverged_is_kept_where_it_may_be(tmp_path):
    tree = {'a': np.array([1, np.nan, np.inf], np.float32)}
    write_sealed(tmp_path / 'a', 'snapshot', tree)
    got = read_sealed(tmp_path / 'a', 'snapshot', 'again').leaves['a']
    np.testing.assert_array_equal(got, tree['a'])
    with pytest.raises(ValueError, match='a is not finite in float32'):
        write_sealed(tmp_path / 'b', 'snapshot', tree, finite=True)
    assert not (tmp_path / 'b').exists()


def test_every_changed_byte_is_refused_or_changes_nothing(path, caplog):
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            got = read_sealed(path, 'snapshot', 'make it again')
        except ValueError as error:
            assert str(path) in str(error) and str(error).endswith('; make it again')
        else:  # another space behind the header, or another name of a metadata text
            assert got.info == INFO and got.leaves.keys() == flatten(TREE).keys()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert not is_whole(path, 'snapshot', 'make it again')
    assert caplog.text.count('make it again') == len(whole)


def test_other_files_are_refused(path, tmp_path):
    assert is_of_kind(path, 'snapshot') and is_whole(path, 'snapshot', '')
    assert not is_of_kind(path, 'pack') and not is_of_kind(tmp_path / 'none', 'pack')
    with pytest.raises(ValueError, match="a is not read: it is no pack: its header lacks 'jax_pro"):
        read_sealed(path, 'pack', 'copy it again')
    with pytest.raises(FileNotFoundError, match='none is missing: copy it again'):
        read_sealed(tmp_path / 'none', 'pack', 'copy it again')
    assert not is_whole(tmp_path / 'none', 'pack', '')
    np.savez(tmp_path / 'old.npz', a=np.zeros(2))
    with pytest.raises(ValueError, match=r'old\.npz is not read: it is no safetensors file; again'):
        read_sealed(tmp_path / 'old.npz', 'snapshot', 'again')
    for info, why in (('[' * 10**5, 'is damaged'), ('{"a":1,"a":2}', 'one name'), ('NaN', 'NaN')):
        save_file({}, tmp_path / 'b', {'jax_prompt_snapshot': info, 'sha256': ''})
        with pytest.raises(ValueError, match=f'b is not read: its header .*{why}.*; again'):
            read_sealed(tmp_path / 'b', 'snapshot', 'again')
    save_file({'a' * 600: np.zeros(1)}, tmp_path / 'b', {'jax_prompt_snapshot': '1', 'sha256': ''})
    with pytest.raises(ValueError, match='600 characters; at most 512'):
        read_sealed(tmp_path / 'b', 'snapshot', 'again')


def test_what_a_kind_does_not_hold_is_told_before_the_checksum(path):
    def check(leaves, info):
        raise ValueError(f'it holds {sorted(leaves)[0]} of epoch {info["epoch"]}')

    path.write_bytes(path.read_bytes()[:-1] + b'\7')
    with pytest.raises(ValueError, match=r'a is not read: it holds head/bias of epoch 3$'):
        read_sealed(path, 'snapshot', 'again', check)
