import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from small_data import encode

from jax_prompt.core.spec import FEATURES
from jax_prompt.runs.prepare import prepare
from jax_prompt.runs.prompts import read_prototypes
from jax_prompt.runs.restore import restore
from jax_prompt.runs.run import run
from jax_prompt.train import ledger
from jax_prompt.train.checkpoint import Checkpoints
from jax_prompt.train.job import NonFiniteLoss
from jax_prompt.train.log import read_metrics
from jax_prompt.weights.load import load_weights, save_converted

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make_config(make_config):
    """Runs on images of half their side: a quarter of the tokens."""
    return partial(make_config, image_size=16)


def test_a_run_writes_what_its_result_promises(make_config, tmp_path, pack):
    result = run(make_config(), tmp_path / 'run', quiet=True)
    assert result == json.loads((tmp_path / 'run' / 'result.json').read_text())
    assert result['num_trainable'] == 6 * 2 * 128 + 129 * 2
    assert result['num_trainable_head'] == 129 * 2
    assert result['test_accuracy'] == result['val_accuracy'] == 1.0
    assert result['num_examples'] == {'train': 24, 'val': 8, 'test': 10}
    assert result['weights']['name'] == 'vit_micro.tiny_imagenet'
    assert result['trained_on'] == 'train'
    assert result['versions']['jax'] == jax.__version__
    for name in ('seconds_total', 'images_per_second', 'peak_memory_mb', 'lr'):
        assert result[name] > 0


def test_a_finished_run_does_nothing_and_another_configuration_is_refused(
    make_config, tmp_path, monkeypatch
):
    first = run(make_config(method='linear'), tmp_path / 'run', quiet=True)
    monkeypatch.setattr('jax_prompt.runs.run.fit', lambda *_: pytest.fail('trained again'))
    assert run(make_config(method='linear'), tmp_path / 'run', quiet=True) == first
    with pytest.raises(ValueError, match=r'epochs: 2 there, 3 asked'):
        run(make_config(method='linear', epochs=3), tmp_path / 'run', quiet=True)
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'thesis.txt').write_text('mine')
    with pytest.raises(ValueError, match='not empty and holds no run'):
        run(make_config(method='linear'), tmp_path / 'other', quiet=True)


def test_search_chooses_on_val_then_trains_on_both(make_config, tmp_path):
    config = make_config(method='linear', search=True, search_lrs=(1e-6, 1e-2), epochs=4)
    result = run(config, tmp_path / 'run', quiet=True)
    assert [row['lr'] for row in result['search']] == [1e-6, 1e-2]
    best = max(result['search'], key=lambda row: row['val_accuracy'])
    assert result['lr'] == best['lr'] == 1e-2
    assert result['val_accuracy'] == best['val_accuracy']
    assert result['trained_on'] == 'train+val'
    jobs = {row['stage'] for row in read_metrics(tmp_path / 'run' / 'metrics.jsonl')}
    assert jobs == {'search/lr_1e-06', 'search/lr_0.01', 'train'}
    kept = replace(config, refit=False)
    alone = run(kept, tmp_path / 'kept', quiet=True)
    assert alone['checkpoint'] == 'search/lr_0.01'
    assert alone['trained_on'] == 'train'
    again = restore(tmp_path / 'kept').evaluate('test')
    assert again['accuracy'] == alone['test_accuracy']


def test_search_over_weight_decay_gives_the_head_the_same(make_config, tmp_path):
    config = make_config(
        method='linear', search=True, search_lrs=(1e-2,), search_weight_decays=(1e-3, 1e2), epochs=2
    )
    result = run(config, tmp_path / 'run', quiet=True)
    names = [
        (row['name'], row['weight_decay'], row['head_weight_decay']) for row in result['search']
    ]
    assert names == [('lr_0.01_wd_0.001', 1e-3, 1e-3), ('lr_0.01_wd_100', 1e2, 1e2)]
    rows = read_metrics(tmp_path / 'run' / 'metrics.jsonl')
    kept, decayed = (
        [row['val_loss'] for row in rows if row['stage'] == f'search/{name}'][-1]
        for name, _, _ in names
    )
    assert kept < decayed  # a decay of lr x 100 a step takes the head back to 0 each time
    assert (result['weight_decay'], result['head_weight_decay']) == (1e-3, 1e-3)


def test_a_diverging_candidate_is_a_row_and_all_of_them_an_error(make_config, tmp_path):
    options = {'optim': {'name': 'sgd'}, 'method': 'linear', 'search': True}
    config = make_config(search_lrs=(1e-2, 3e38), **options)
    result = run(config, tmp_path / 'run', quiet=True)
    assert result['lr'] == 1e-2
    assert result['search'][1]['val_accuracy'] is None
    assert 'at step 1' in result['search'][1]['status']
    with pytest.raises(NonFiniteLoss, match=r"every candidate of \['lr_3e\+38'\]"):
        run(make_config(search_lrs=(3e38,), **options), tmp_path / 'bad', quiet=True)
    assert not (tmp_path / 'bad' / 'result.json').exists()


def test_cached_features_give_the_result_of_no_cache(make_config, tmp_path):
    cached = run(make_config(method='linear'), tmp_path / 'a', quiet=True)
    plain = run(make_config(method='linear', input={'cache_mb': 0.0}), tmp_path / 'b', quiet=True)
    rows = [read_metrics(tmp_path / name / 'metrics.jsonl') for name in 'ab']
    for mine, theirs in zip(*rows, strict=True):
        assert mine['loss'] == pytest.approx(theirs['loss'], rel=1e-4)
    assert cached['test_loss'] == pytest.approx(plain['test_loss'], rel=1e-4)


@pytest.mark.parametrize('construction', ['random', 'mean', 'max', 'kmeans'])
def test_prompts_start_from_prototypes_of_the_tasks_own_tokens(make_config, tmp_path, construction):
    calibration = {'construction': construction, 'batch_size': 8, 'max_iter': 5}
    config = make_config(method='spt_deep', calibration=calibration, epochs=1, lr=0.0)
    result = run(config, tmp_path / 'run', quiet=True)
    prompts, _ = read_prototypes(tmp_path / 'run' / 'prototypes.safetensors', '')
    assert prompts.shape == (6, 2, 128)
    assert result['calibration']['construction'] == construction
    done = restore(tmp_path / 'run')
    np.testing.assert_array_equal(done.trainable['tuner']['layers']['prompts'], prompts)


def test_frozen_prototypes_train_the_head_alone(make_config, tmp_path):
    config = make_config(method='spt_shallow', train_prompts=False)
    result = run(config, tmp_path / 'run', quiet=True)
    assert result['num_trainable'] == result['num_trainable_head'] == 129 * 2
    got = restore(tmp_path / 'run').evaluate('test')
    assert got['accuracy'] == result['test_accuracy']


def test_with_frozen_prompts_the_head_trains_on_features_computed_once(make_config, tmp_path):
    config = make_config(method='spt_deep', train_prompts=False, epochs=1)
    (tmp_path / 'a').mkdir()
    prepared = prepare(config, tmp_path / 'a', quiet=True)
    assert prepared.start.program.start == FEATURES
    assert set(prepared.start.frozen) == {'tuner'}  # the network is not needed any more
    assert prepared.splits['train'].data.shape == (24, 128)
    once = run(config, tmp_path / 'once', quiet=True)
    each_time = replace(config, input=replace(config.input, cache_mb=0.0))
    again = run(each_time, tmp_path / 'each_time', quiet=True)
    assert once['test_loss'] == pytest.approx(again['test_loss'], rel=1e-5)
    dropped = replace(config, method='vpt_deep', tuner={'dropout_rate': 0.5})
    (tmp_path / 'b').mkdir()
    assert prepare(dropped, tmp_path / 'b', quiet=True).start.program.start.at_image


def test_prototypes_may_come_from_another_task(make_config, tmp_path, pack):
    arrays = dict(np.load(pack))
    arrays['label'] = 1 - arrays['label']
    arrays['split'] = np.zeros(42, np.uint8)
    arrays['split'][:8] = 1
    np.savez(tmp_path / 'other.npz', **arrays)
    own = make_config(method='spt_shallow', epochs=1)
    other = replace(own, calibrate_data=str(tmp_path / 'other.npz'))
    prompts = []
    for name, config in (('own', own), ('other', other)):
        run(config, tmp_path / name, quiet=True)
        prompts.append(read_prototypes(tmp_path / name / 'prototypes.safetensors', '')[0])
    assert np.abs(prompts[0] - prompts[1]).max() > 0


@pytest.mark.parametrize('method', ['linear', 'vpt_shallow'])
def test_streamed_and_resident_runs_agree(make_config, tmp_path, method):
    options = {'method': method, 'search': True, 'search_lrs': (1e-2,), 'epochs': 1}
    a = run(make_config(**options), tmp_path / 'a', quiet=True)
    # 24 x 16 x 16 x 3 bytes are 0.018 MB: train is streamed, val and test are not.
    b = run(make_config(**options, input={'budget_mb': 0.0125}), tmp_path / 'b', quiet=True)
    c = run(make_config(**options, input={'budget_mb': 1e-6}), tmp_path / 'c', quiet=True)
    for other in (b, c):
        assert other['test_loss'] == pytest.approx(a['test_loss'], rel=1e-3)
        assert other['val_accuracy'] == a['val_accuracy']


def test_eight_devices_give_the_result_of_one_and_resume(make_config, tmp_path, monkeypatch):
    one = run(make_config(), tmp_path / 'one', quiet=True)
    eight = {'num_devices': 8, 'checkpoint_seconds': 0.0, 'eval_batch_size': 8}
    ends = []
    real = ledger.append_metrics

    def dying(path, row):
        real(path, row)
        ends.append(row['epoch'])
        if len(ends) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ledger, 'append_metrics', dying)
    with pytest.raises(KeyboardInterrupt):
        run(make_config(engine=eight), tmp_path / 'eight', quiet=True)
    got = run(make_config(engine=eight), tmp_path / 'eight', quiet=True)
    assert ends == [1, 2, 2]  # the first epoch was not trained again
    assert got['test_loss'] == pytest.approx(one['test_loss'], rel=1e-3)


def test_a_bfloat16_backbone_stays_near(make_config, tmp_path):
    a = run(make_config(epochs=1), tmp_path / 'a', quiet=True)
    model = {'frozen_dtype': 'bfloat16', 'dtype': 'bfloat16'}
    b = run(make_config(epochs=1, model=model), tmp_path / 'b', quiet=True)
    assert b['test_loss'] == pytest.approx(a['test_loss'], abs=0.1)
    done = restore(tmp_path / 'b')
    assert {leaf.dtype.name for leaf in jax.tree.leaves(done.frozen)} == {'bfloat16'}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(done.trainable)} == {'float32'}


def test_wrong_input_is_named_before_training(make_config, tmp_path, pack):
    with pytest.raises(ValueError, match='starts from random weights'):
        run(make_config(method='retrain'), tmp_path / 'a', quiet=True)
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth'):
        run(make_config(weights=str(tmp_path / 'nowhere.pth')), tmp_path / 'b', quiet=True)
    with pytest.raises(ValueError, match='batch_size 9 is no multiple of the 8 devices'):
        run(make_config(batch_size=9, engine={}), tmp_path / 'c', quiet=True)


def test_restoring_says_what_is_missing_or_changed(make_config, tmp_path, weights):
    (tmp_path / 'here').mkdir()
    (tmp_path / 'here' / 'config.json').touch()
    with pytest.raises(FileNotFoundError, match=r'holds no run; .* train \(in it here\)'):
        restore(tmp_path)
    mine = tmp_path / 'mine.safetensors'
    mine.write_bytes(weights.read_bytes())
    run(make_config(method='linear', weights=str(mine)), tmp_path / 'run', quiet=True)
    result = tmp_path / 'run' / 'result.json'
    tree, report = load_weights(mine, 'vit_micro')
    for dtype in ('float32', 'bfloat16'):
        save_converted(tmp_path / dtype, tree, report.identity, dtype)
    same = restore(tmp_path / 'run', tmp_path / 'float32').evaluate('test')
    assert same == restore(tmp_path / 'run').evaluate('test')
    with pytest.raises(ValueError, match=r'bfloat16 holds .* in other values .*rounded.* sha256'):
        restore(tmp_path / 'run', tmp_path / 'bfloat16')
    text, digest = result.read_text(), report.identity.sha256
    result.write_text(text.replace(digest, '1' * 64))
    with pytest.raises(ValueError, match='Put the original file back'):
        restore(tmp_path / 'run')
    result.unlink()
    with pytest.raises(ValueError, match='not finished'):
        restore(tmp_path / 'run')


def _launch(script, *args):
    command = [sys.executable, str(ROOT / 'launch' / script), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_predictions_of_image_files(make_config, tmp_path):
    run(make_config(), tmp_path / 'run', quiet=True)
    images = tmp_path / 'images'
    images.mkdir()
    rng = np.random.default_rng(1)
    for name, level in (('a_dark', 0), ('b_bright', 90)):
        noise = (rng.integers(0, 120, (40, 50, 3)) + level).astype(np.uint8)  # as in the pack
        (images / f'{name}.png').write_bytes(encode(noise))
    args = ('--workdir', tmp_path / 'run', images, '--top', 2)
    done = _launch('predict.py', *args, '--format', 'jsonl')
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row['predictions'][0]['class'] for row in rows] == ['dark', 'bright']
    assert sum(p['probability'] for p in rows[0]['predictions']) == pytest.approx(1.0, abs=1e-5)
    (images / 'c_broken.png').write_bytes(b'no image')
    done = _launch('predict.py', *args)
    assert done.returncode == 2
    assert 'c_broken.png' in done.stderr


def test_a_run_killed_again_and_again_ends_with_the_same_bits(make_config, tmp_path):
    config = make_config(epochs=6, method='spt_deep', optim={'name': 'adamw', 'ema_decay': 0.5})
    whole = run(config, tmp_path / 'whole', quiet=True)
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(config.to_dict()))
    script = (
        'import json, sys; from jax_prompt.runs.config import resolve; '
        'from jax_prompt.runs.run import run; '
        'run(resolve(json.load(open(sys.argv[1]))), sys.argv[2])'
    )
    command = [sys.executable, '-c', script, str(path), str(tmp_path / 'killed')]
    kills, rng = 0, np.random.default_rng(0)
    checkpoints = tmp_path / 'killed' / 'checkpoints'
    while kills < 3:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT, env=os.environ
        )
        seen = len(list(checkpoints.glob('*')))
        while process.poll() is None and len(list(checkpoints.glob('*'))) <= min(seen, 1):
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0.0, 0.1)))  # in the middle of a step, a save or a rename
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0), errors.decode()
        kills += 1
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    killed = json.loads((tmp_path / 'killed' / 'result.json').read_text())
    assert killed['test_loss'] == whole['test_loss']
    ends = [restore(tmp_path / name).trainable for name in ('whole', 'killed')]
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_checkpoints_hold_nothing_frozen_and_too_large_a_batch_is_said(
    make_config, tmp_path, capsys
):
    run(make_config(batch_size=25), tmp_path / 'run')
    assert 'batch_size is 25, more than the 24 images of train' in capsys.readouterr().out
    size = sum(f.stat().st_size for f in (tmp_path / 'run' / 'checkpoints').rglob('*'))
    assert size < 500_000  # the backbone alone has 4.8 MB


def test_checkpoints_keep_the_latest(tmp_path):
    checkpoints = Checkpoints(tmp_path / 'c')
    tree = {'a': np.arange(3.0, dtype=np.float32)}
    for step in (5, 10, 15):
        checkpoints.save(step, {'a': tree['a'] + step}, {'step': step})
    got, info = checkpoints.restore(tree)
    checkpoints.close()
    np.testing.assert_array_equal(got['a'], tree['a'] + 15)
    assert info == {'step': 15}
    empty = Checkpoints(tmp_path / 'empty')
    with pytest.raises(FileNotFoundError, match='no checkpoint'):
        empty.restore(tree)
    empty.close()
