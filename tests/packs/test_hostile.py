"""Packs that somebody made or a disk changed are refused, each with a reason."""

import json
import struct

import numpy as np
import pytest

from jax_prompt.core.checksum import hash_tree
from jax_prompt.core.tree import flatten, unflatten
from jax_prompt.packs.file import read_pack, write_pack
from jax_prompt.packs.header import SCHEMA, to_json
from jax_prompt.packs.load import load_pack
from jax_prompt.weights.writer import write_safetensors


@pytest.fixture
def pack(make_run, tmp_path):
    tuned = make_run('vpt_shallow')
    return write_pack(tuned, tmp_path / 'whole')


@pytest.fixture
def forge(pack, tmp_path):
    """Writes a pack with a change of its header or its tensors, its checksum made anew."""

    def write(header=None, tensors=None, text=None):
        values, flat = to_json(pack.header), dict(flatten(pack.tree))
        if header:
            header(values)
        if tensors:
            tensors(flat)
        made = json.dumps(values) if text is None else text(json.dumps(values))
        try:
            digest = hash_tree(unflatten(flat), json.loads(made))
        except (ValueError, RecursionError):
            digest = '0' * 64
        with (tmp_path / 'forged').open('wb') as file:
            write_safetensors(file, flat, '', {'jax_prompt_pack': made, 'sha256': digest})
        return tmp_path / 'forged'

    return write


def _set(*path, to):
    def change(values):
        for name in path[:-1]:
            values = values[name]
        values[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (_set('schema', to=SCHEMA + 1), 'its schema is 2; this version .* reads schema 1. Install'),
        (_set('schema', to=True), 'its schema is True'),
        (_set('more', to=1), 'its header holds'),
        (_set('config', 'batch_sice', to=1), r'unknown config key batch_sice.*jax_prompt 0\.1 wro'),
        (_set('config', 'num_prompts', to=10**9), 'at most 10000'),
        (_set('config', 'data', to='x' * 2000), 'out of bounds'),
        (_set('config', 'tuner', to={'a': [[[[[[[[[[1]]]]]]]]]]}), 'out of bounds'),
        (_set('config', 'method', to='linear'), "its method is 'vpt_shallow' and 'linear'"),
        (_set('result', 'classes', to=['a', 'a']), 'classes of its result'),
        (_set('result', 'classes', to=['a']), 'classes of its result'),
        (_set('result', 'test_accuracy', to=1.5), 'test_accuracy of its result is 1.5'),
        (_set('result', 'std', to=[0.5, 0.5, 0]), 'std of its result'),
        (_set('result', 'seed', to=-1), 'seed of its result'),
        (_set('result', 'trained_sha256', to='ab'), 'trained_sha256 of its result'),
        (_set('result', 'search', to=[]), "and has .'search'. besides"),
        (_set('result', 'weights', to={'name': 'vit_micro'}), 'not the fields of an identity'),
        (_set('result', 'weights', to=None), 'weights of its result is None'),
        (_set('result', to=[]), 'its configuration or its result is no object'),
        (_set('content', to='x' * 64), 'no SHA-256'),
    ],
)
def test_headers(change, text, forge):
    with pytest.raises(ValueError, match=f'forged is not read: .*{text}'):
        read_pack(forge(header=change))


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (lambda text: text.replace('"seed"', '"seed": 1, "seed"', 1), 'entries of one name'),
        (lambda text: text.replace('0.75', 'NaN'), 'it holds NaN'),
        (lambda text: text.replace('0.75', '1e999'), 'out of bounds'),
        (lambda text: text + ' ' * 2**22, 'characters; at most'),
        (lambda text: '[' * 100_000, 'its header is damaged'),
        (lambda text: '[]', 'its header is no object'),
        (lambda text: '', 'its header is damaged'),
    ],
)
def test_texts(change, text, forge):
    with pytest.raises(ValueError, match=f'forged is not read: .*{text}'):
        read_pack(forge(text=change))


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (lambda flat: flat.update({'head/bias': np.zeros(2, np.float16)}), 'is float16; allowed'),
        (lambda flat: flat.update({'frozen/x': np.zeros(2, np.float32)}), 'is named .frozen/x'),
        (lambda flat: flat.update({'head//x': np.zeros(2, np.float32)}), 'is named .head//x'),
        (lambda flat: [flat.pop(k) for k in list(flat) if k.startswith('head')], 'holds no head'),
        (lambda flat: flat.update({'head/bias/x': np.zeros(2, np.float32)}), 'a subtree'),
    ],
)
def test_tensors(change, text, forge):
    def tensors(flat):
        change(flat)

    with pytest.raises(ValueError, match=text) as error:
        # A tree with a leaf below a leaf has no checksum, and needs none.
        read_pack(forge(tensors=tensors))
    assert 'head/bias/x' in str(error.value) or 'forged is not read' in str(error.value)


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (
            lambda flat: flat.update({'head/bias': np.zeros(3, np.float32)}),
            r'\(3,\), wanted \(2,\)',
        ),
        (lambda flat: flat.pop('head/bias'), 'head/bias is missing'),
        (lambda flat: flat.update({'tuner/x': np.zeros(3, np.float32)}), 'nothing there'),
        (lambda flat: flat.update({'backbone/x': np.zeros(3, np.float32)}), 'nothing there'),
        (lambda flat: flat.update({'head/bias': np.ones(2, np.float32)}), 'other weights than'),
    ],
)
def test_what_contradicts_the_configuration_is_not_loaded(change, text, forge):
    with pytest.raises(ValueError, match=f'forged (contradicts|holds).*{text}'):
        load_pack(forge(tensors=lambda flat: change(flat)))


def test_options_that_ask_for_much_are_refused_before_it_is_made(forge):
    with pytest.raises(ValueError, match=r'wanted \(10000, 128\)'):
        load_pack(forge(header=_set('config', 'num_prompts', to=10_000)))


def test_every_changed_byte_is_found(pack, tmp_path):
    data, path = (tmp_path / 'whole').read_bytes(), tmp_path / 'flipped'
    length = struct.unpack('<Q', data[:8])[0]
    rng, unseen = np.random.default_rng(0), []
    places = [
        *range(40),
        *rng.integers(8, 8 + length, 60),
        *rng.integers(8 + length, len(data), 60),
    ]
    for place in map(int, places):
        bad = bytearray(data)
        bad[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        try:
            got = read_pack(path)
        except ValueError as error:
            assert 'flipped' in str(error)
            continue
        unseen.append(place)
        assert got.header == pack.header and got.sha256 == pack.sha256
    # What is not noticed changes nothing: an escape of the same letter, a space behind the header.
    assert len(unseen) <= 2 and all(place < 8 + length for place in unseen)


@pytest.mark.parametrize('data', [b'', b'PK\x03\x04', b'\x80\x04', b'x' * 100, b'\0' * 8 + b'{'])
def test_other_files_are_no_packs(data, tmp_path):
    (tmp_path / 'p').write_bytes(data)
    with pytest.raises(ValueError, match='/p '):
        read_pack(tmp_path / 'p')
    with pytest.raises(ValueError, match='is a folder'):
        read_pack(tmp_path)
    with pytest.raises(FileNotFoundError, match='no pack at'):
        read_pack(tmp_path / 'none')


def test_weights_are_no_pack(weights):
    with pytest.raises(ValueError, match="is no pack: its header lacks 'jax_prompt_pack'"):
        read_pack(weights)
