"""Small torch files that would use up the stack, the time or the memory are refused at once."""

import io
import struct
import time

import numpy as np
import pytest
from torch_handmade import FORMS, VALUES, opcodes, tensor_pickle, write, zip_file

from jax_prompt.weights import pickle_machine
from jax_prompt.weights.load import load_weights
from jax_prompt.weights.pickle_values import excerpt
from jax_prompt.weights.readers import read
from jax_prompt.weights.unpickler import unpickle


def _name(module, name):
    return b'c' + module.encode() + b'\n' + name.encode() + b'\n'


def _text(text):
    return b'X' + struct.pack('<I', len(text)) + text.encode()


# t = (t, t), sixty times: 2**60 ends, which a hash or a printed text would visit.
DOUBLED = b')' + b''.join(b'q%ch%c\x86' % (i, i) for i in range(60))
DEEP = b')' + b'\x85' * 50_000
LONG = b'(' + b'N' * 10**4 + b'lq\x00'  # a list, number 0
SIZE, SET, DEVICE = _name('torch', 'Size'), _name('builtins', 'set'), _name('torch', 'device')
ENCODE, DICT = _name('_codecs', 'encode'), _name('argparse', 'Namespace')
REFUSED = {
    'doubled tuples as a key': opcodes(b'}', DOUBLED, b'Ns'),
    'a deep tuple as a key': opcodes(b'}', DEEP, b'Ns'),
    'doubled tuples as an id': opcodes(DOUBLED, b'Q'),
    'doubled tuples as a device': opcodes(DEVICE, DOUBLED, b'\x85R'),
    'doubled tuples as an encoding': opcodes(ENCODE, _text('a'), DOUBLED, b'\x86R'),
    'doubled tuples as a numpy type': opcodes(_name('numpy', 'dtype'), DOUBLED, b'\x85R'),
    'a device doubled': opcodes(
        _text('x' * 32), b''.join(b'q%c0' % i + DEVICE + b'h%ch%c\x86R' % (i, i) for i in range(34))
    ),
    'a size again and again': opcodes(LONG, b'0(', (SIZE + b'h\x00\x85R') * 500, b'l'),
    'a set again and again': opcodes(LONG, b'0(', (SET + b'h\x00\x85R') * 500, b'l'),
    'a text encoded again and again': opcodes(
        _text('x' * 10**5), b'q\x000(', (ENCODE + b'h\x00\x85R') * 500, b'l'
    ),
    'a dict copied again and again': opcodes(
        b'}(' + b''.join(b'M' + struct.pack('<H', i) + b'N' for i in range(10**4)) + b'uq\x000(',
        (DICT + b')Rh\x00b') * 500,
        b'l',
    ),
    'a long number': opcodes(b'\x8b' + struct.pack('<i', 10**4) + b'\x7f' * 10**4),
    'a text of 2 MB': opcodes(b'X' + struct.pack('<I', 2**21) + b'x' * 2**21),
    'a long line': b'\x80\x02I' + b'9' * 2**21 + b'\n.',
}


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('case', REFUSED)
def test_bombs_are_refused_in_a_moment_and_in_a_few_words(case, form, tmp_path):
    path = write(form, tmp_path / 'm.pth', REFUSED[case])
    began = time.process_time()
    with pytest.raises(ValueError, match='not read') as caught:
        read(path)
    assert time.process_time() - began < 2.0
    assert str(path) in str(caught.value) and len(str(caught.value)) < 600


def test_depth_alone_is_harmless(tmp_path):
    """Nothing recurses into what lies beside the weights."""
    tensor = tensor_pickle()[2:-2]  # '}', the name and the tensor
    path = zip_file(
        tmp_path / 'm.pth', opcodes(tensor, b's', _text('deep'), DEEP, b's'), {'0': VALUES}
    )
    contents = read(path)
    assert list(contents.tensors) == ['w'] and contents.left == ('deep',)


def test_the_number_of_opcodes_is_bounded(monkeypatch):
    monkeypatch.setattr(pickle_machine, 'MAX_OPCODES', 100)
    unpickle(io.BytesIO(opcodes(b'(' + b'N' * 50 + b'l')))
    with pytest.raises(ValueError, match='more than 100 opcodes'):
        unpickle(io.BytesIO(opcodes(b'(' + b'N' * 200 + b'l')))


def test_keys_that_are_short_tuples_become_text():
    content, _ = unpickle(io.BytesIO(opcodes(b'}', _text('a'), b'K\x01\x86', b'Ns')))
    assert content == {"('a', 1)": None}


def test_sizes_that_no_memory_has_are_refused(tmp_path):
    for change in ({'shape': (0, 2**62)}, {'shape': (1,), 'strides': (2**62,)}, {'count': 2**62}):
        path = zip_file(tmp_path / 'm.pth', tensor_pickle(**change), {'0': VALUES})
        with pytest.raises(ValueError, match=str(path)):
            read(path)


def test_excerpts_are_short():
    nested = ()
    for _ in range(100):
        nested = (nested, nested)
    values = [nested, 'x' * 10**6, 2**10**6, [1] * 10**6, {'a': nested}, 1.5, None]
    assert all(len(excerpt(value)) < 100 for value in values)
    assert excerpt((2, 3)) == '(2, 3)' and excerpt('abc') == "'abc'"


def test_a_path_that_is_nearly_a_block_is_refused_by_name(listed, tmp_path):
    """A converted file with one changed letter."""
    name = listed(format='jax_prompt')
    arrays = {
        'patch_embed/kernel': np.zeros((8, 8, 3, 32), np.float32),
        'block_00/mlp/fc1/bias': np.zeros(128, np.float32),
        'block_p0/ln1/scale': np.zeros(32, np.float32),
    }
    np.savez(tmp_path / 'w.npz', **arrays)
    with pytest.raises(ValueError, match=r'w\.npz is a ViT of .*depth 1'):
        load_weights(tmp_path / 'w.npz', name)
