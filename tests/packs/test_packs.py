"""Packs: a tuned task as one file, which predicts as its run does."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from small_data import encode, picture

from jax_prompt.backbones.table import find_weights
from jax_prompt.core.checksum import hash_file
from jax_prompt.core.tree import flatten
from jax_prompt.evals.classify import NonFiniteLogits
from jax_prompt.packs.card import card
from jax_prompt.packs.file import is_pack, pack_of, read_pack, write_pack
from jax_prompt.packs.load import find_backbone, load_pack, open_tuned
from jax_prompt.runs.restore import restore
from jax_prompt.runs.run import run
from jax_prompt.weights.cache import cached_file
from jax_prompt.weights.identity import Identity
from jax_prompt.weights.load import load_weights, save_converted

_HALF = {'train_prompts': False, 'model': {'frozen_dtype': 'bfloat16'}}
_SMALL_LION = {'image_block': False, 'eval_max_iter': 4}
METHODS = {
    'vpt_deep': {},
    'spt_deep': _HALF,
    'e2vpt': {'tuner': {'kept': (((1, 1), (0, 0)),) * 6}},
    'lora': {},
    'linear': {},
    'partial': {'tuner': {'last': 1}},
    'bias+vpt_shallow': {},
    'lion': {'tuner': _SMALL_LION},
}


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('images')
    paths = [folder / f'{i}.png' for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(encode(picture(i)))
    return paths


@pytest.fixture
def packed(make_run, tmp_path):
    """A linear run of two classes and its pack."""
    tuned = make_run('linear')
    write_pack(tuned, tmp_path / 'packed.safetensors')
    return tuned, tmp_path / 'packed.safetensors'


@pytest.mark.parametrize('method', METHODS)
def test_a_pack_predicts_as_its_run_to_the_last_bit(method, make_run, images, tmp_path):
    tuned = make_run(method, **METHODS[method])
    path = tmp_path / 'out.safetensors'
    written = write_pack(tuned, path)
    got = open_tuned(path)
    want = tuned.predict(images)
    np.testing.assert_array_equal(got.predict(images), want)
    assert np.ptp(want, axis=0).max() > 1e-3  # images differ, so bits could
    assert got.classes == tuned.classes and got.program.image_size == 16
    # What is trained or added is in the file, and nothing else.
    held = {key: tree for key, tree in tuned.frozen.items() if key != 'backbone'}
    names = flatten(tuned.trainable).keys() | flatten(held).keys()
    assert flatten(written.tree).keys() == names
    size = sum(leaf.nbytes for leaf in flatten(written.tree).values())
    assert size < path.stat().st_size < size + 12_000
    again = read_pack(path)
    assert again.sha256 == written.sha256 and again.header == written.header


def test_a_run_directory_becomes_a_pack_that_evaluates_alike(make_config, tmp_path, images):
    config = make_config(
        method='spt_shallow', train_prompts=False, epochs=1, image_size=16, search=True,
        search_lrs=(1e-2,), input={'image_cache': str(tmp_path / 'seen')},
    )  # fmt: skip
    result = run(config, tmp_path / 'run', quiet=True)
    pack = write_pack(tmp_path / 'run', tmp_path / 'p')
    own, got = restore(tmp_path / 'run', 'auto'), load_pack(tmp_path / 'p', 'auto')
    assert got.evaluate('test') == own.evaluate('test')
    assert got.evaluate('test')['accuracy'] == result['test_accuracy']
    np.testing.assert_array_equal(got.predict(images), own.predict(images))
    held = pack.header.result
    assert held['trained_sha256'] == result['trained_sha256'] and 'search' not in held
    assert pack.header.config.input.image_cache == '' and pack.header.config.image_size == 16
    assert pack.header.config.model.pool == 'cls'
    text = card(pack)
    for part in (
        f'| test | 10 | {100 * result["test_accuracy"]:.2f} % | after the last epoch',
        '1 candidates were compared on val, then trained again',
        'Trained on train+val, 1 epochs, lr 0.01',
        f'SHA-256 `{result["weights"]["sha256"]}`',
        '| prompts | as they were initialised |',
        f'| checksum | {pack.sha256} |',
    ):
        assert part in text, part


def test_a_backbone_is_no_pack(make_run, tmp_path):
    full = make_run('full')
    retrained = replace(full, config=replace(full.config, method='retrain'))
    for tuned, method in ((full, 'full'), (retrained, 'retrain')):
        with pytest.raises(ValueError, match=f'method {method} trains the whole backbone.*export'):
            write_pack(tuned, tmp_path / 'p')
    assert not (tmp_path / 'p').exists()


def test_what_is_not_the_packs_backbone_is_refused(packed, tmp_path):
    _, path = packed
    asked = r'packed\.safetensors needs the backbone vit_micro.*mae_micro.*Give a file of vit_micro'
    with pytest.raises(ValueError, match=asked):
        load_pack(path, find_weights('mae_micro'))
    with pytest.raises(
        FileNotFoundError, match='none is not there; give a finished run, or a pack'
    ):
        open_tuned(tmp_path / 'none')


def test_a_pack_replaces_a_pack_and_nothing_else(packed, tmp_path):
    tuned, path = packed
    before = path.read_bytes()
    assert is_pack(path) and not is_pack(tmp_path) and not is_pack(tmp_path / 'none')
    write_pack(tuned, path)
    assert path.read_bytes() == before
    other = tmp_path / 'weights.npz'
    np.savez(other, a=np.zeros(3))
    for where in (other, tmp_path):
        with pytest.raises(ValueError, match='exists and is no pack'):
            write_pack(tuned, where)
    with pytest.raises(FileNotFoundError, match='make that folder first'):
        write_pack(tuned, tmp_path / 'no' / 'p')
    bad = jax.tree.map(lambda x: x * np.nan, tuned.trainable)
    with pytest.raises(ValueError, match='head/bias is not finite'):
        write_pack(replace(tuned, trainable=bad), path)
    assert path.read_bytes() == before


def test_logits_that_are_not_finite_are_refused(packed, images, tmp_path):
    tuned, _ = packed
    huge = {'head': {'kernel': np.full_like(tuned.trainable['head']['kernel'], 3e38)}}
    huge['head']['bias'] = np.zeros(2, np.float32)
    bad = replace(tuned, trainable=huge)
    bad.result['trained_sha256'] = _measured(bad)
    write_pack(bad, tmp_path / 'bad')
    with pytest.raises(NonFiniteLogits, match=r'0\.png'):
        open_tuned(tmp_path / 'bad').predict(images)


def _measured(tuned):
    from jax_prompt.runs.result import measured_hash

    return measured_hash(tuned.config, tuned.trainable, tuned.frozen)


def test_the_backbone_is_found_by_its_content(packed, weights, tmp_path):
    _, path = packed
    tree, report = load_weights(weights, 'vit_micro')
    for dtype in ('float32', 'bfloat16'):
        save_converted(tmp_path / dtype, tree, report.identity, dtype)
    assert load_pack(path, tmp_path / 'float32').config.weights == str(tmp_path / 'float32')
    with pytest.raises(ValueError, match='in other values'):
        load_pack(path, tmp_path / 'bfloat16')
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    (tmp_path / 'changed').write_bytes(changed)  # its header still says what it was
    with pytest.raises(ValueError, match='in other values'):
        load_pack(path, tmp_path / 'changed')
    save_converted(tmp_path / 'other', tree, replace(report.identity, sha256='0' * 64))
    with pytest.raises(ValueError, match='was trained on weights with sha256'):
        load_pack(path, tmp_path / 'other')
    with pytest.raises(FileNotFoundError, match=r'no weights at .*nowhere; .*needs the backbone'):
        load_pack(path, tmp_path / 'nowhere')


def test_a_published_backbone_is_looked_for_where_it_may_lie(monkeypatch, tmp_path, weights):
    monkeypatch.setenv('JAX_PROMPT_CACHE', str(tmp_path / 'cache'))
    file = weights.read_bytes()
    digest = hash_file(weights)
    half = (0.5,) * 3
    identity = Identity('vit_b16_224', 'w.npz', digest, 'google', half, half,
                        asked='vit_b16_224.google_in21k')  # fmt: skip
    recorded = tmp_path / 'recorded.npz'
    text = f'w.npz with sha256 {digest}, published at https.*ViT-B_16.npz.*not found; give it'
    with pytest.raises(FileNotFoundError, match=text):
        find_backbone(identity, str(recorded))
    recorded.write_bytes(b'another')
    with pytest.raises(FileNotFoundError, match=r'not found \(not .*recorded.npz: other weights\)'):
        find_backbone(identity, str(recorded))
    recorded.write_bytes(file)
    assert find_backbone(identity, str(recorded)) == recorded
    cached = cached_file(next(e for e in _entries() if e.name == identity.asked))
    cached.parent.mkdir(parents=True)
    cached.write_bytes(file)
    assert find_backbone(identity, 'auto') == cached
    assert find_backbone(replace(identity, sha256='0' * 64, converted_sha256=digest), '') == cached
    assert find_backbone(identity, '', 'auto') == cached  # which is there, so nothing is fetched
    with pytest.raises(ValueError, match=r'vit_b16_224: .*, which is not published; give its file'):
        find_backbone(replace(identity, asked='vit_b16_224'), '', 'auto')


def _entries():
    from jax_prompt.backbones.table import TABLE

    return TABLE.values()


def test_a_card_shows_text_as_text(packed):
    tuned, _ = packed
    tuned.result['classes'] = ['<script>', '|a|\x1b[31m']
    text = card(pack_of(tuned), 'a *title*')
    assert '# a \\*title\\*' in text and '&lt;script&gt;, \\|a\\|\\\\x1b\\[31m' in text
    assert '\x1b' not in text and '<script>' not in text
    assert 'Hyperparameters were given' in text and '| val | 8 | 50.00 % |' in text
    # It has no column that is empty, and each row as many cells as the head.
    rows = [line for line in text.splitlines() if line.startswith('| ')]
    assert all(json.dumps(row).count(' | ') >= 1 for row in rows)
