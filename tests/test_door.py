"""What a user can mend ends a command with a line or two; the keys of a config are listed."""

import errno
import os
import re
import signal

import pytest

from configs import packs, tune, vtab
from jax_prompt.core.failure import Interrupted
from jax_prompt.door import enter, reason
from jax_prompt.methods import METHODS
from jax_prompt.suite.keys import check_flags, describe, load_config, sentence, walk
from jax_prompt.train.job import NonFiniteLoss, Unconverged


@pytest.mark.parametrize(
    ('error', 'code', 'text'),
    [
        (ValueError('lr is -1; at least 0'), 2, 'error: lr is -1; at least 0'),
        (FileNotFoundError('no run in x'), 2, 'error: no run in x'),
        (FileExistsError(errno.EEXIST, 'File exists', 'x/y'), 2, 'error: File exists: x/y'),
        (OSError(errno.EROFS, 'Read-only file system', 'x'), 2, 'error: Read-only file system: x'),
        (
            OSError(errno.ENOSPC, 'No space', 'x/a'),
            2,
            r'error: the disk is full \(x/a\); make room',
        ),
        (RuntimeError('RESOURCE_EXHAUSTED: 5 GB'), 2, 'error: out of memory; lower .*batch_size'),
        (RuntimeError("Unable to initialize backend 'cuda'"), 2, 'error: JAX finds no device'),
        (
            ModuleNotFoundError("No module 'sklearn'", name='sklearn'),
            2,
            r'jax-prompt\[quickstart\]',
        ),
        (NonFiniteLoss('the loss is nan'), 2, 'error: the loss is nan'),
        (Unconverged('too few'), 2, 'error: too few'),
        (KeyboardInterrupt(), 130, 'interrupted; the same command goes on'),
        (Interrupted('saved at step 3', signal.SIGTERM), 143, 'saved at step 3'),
        (Interrupted('', signal.SIGTERM), 143, 'interrupted'),
        (TypeError('a defect'), 1, '^$'),
        (ModuleNotFoundError("No module 'x'", name='x'), 1, '^$'),
    ],
)
def test_reasons(error, code, text):
    told, got = reason(error)
    assert got == code
    assert re.search(text, told)
    assert told.count('\n') < 2


@pytest.fixture
def sigterm():
    """Puts the handler of SIGTERM back, which the door sets."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_door_ends_with_mains_code_or_the_errors(sigterm, capsys):
    def wrong():
        raise ValueError('no such thing')

    def ended():
        os.kill(os.getpid(), signal.SIGTERM)

    for main, code in ((lambda: None, 0), (lambda: 1, 1), (wrong, 2), (ended, 143)):
        with pytest.raises(SystemExit) as error:
            enter(main)
        assert error.value.code == code
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert told[0] == 'error: no such thing'


def test_the_door_stands_before_the_import_of_a_command(sigterm, capsys, tmp_path, monkeypatch):
    (tmp_path / 'slow_to_import.py').write_text('raise KeyboardInterrupt')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SystemExit, match='130'):
        enter('slow_to_import')
    assert 'interrupted' in capsys.readouterr().err


def test_a_defect_shows_its_traceback(sigterm, capsys):
    with pytest.raises(SystemExit, match='1'):
        enter(lambda: {}['missing'])
    assert 'KeyError' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('flag', 'message'),
    [
        ('--config.lrr=1', 'unknown config key lrr; did you mean lr'),
        ('--config.momentum=1', r'did you mean optim\.momentum'),
        ('--config.optim.momentun=1', r'did you mean optim\.momentum'),
        ('--config.num_prompts=5', 'num_prompts has no effect: method lora has no prompts'),
    ],
)
def test_a_wrong_key_names_the_nearest(flag, message):
    config = tune.get_config('method=lora')
    with pytest.raises(ValueError, match=message):
        check_flags(config, ['train.py', '--config=x', flag])
    check_flags(config, ['--config.lr=1', '--config.tuner.rank', '4', '--config.optim.name=sgd'])


def test_keys_of_benchmarks():
    config = vtab.get_config()
    check_flags(
        config, ['--config.num_prompts.x=1', '--config.run.epochs=1', '--config.seeds=(1,)']
    )
    with pytest.raises(ValueError, match=r'did you mean run\.epochs'):
        check_flags(config, ['--config.epochs=1'])


def test_a_wrong_config_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r'no config file .*nofile\.py'):
        load_config(f'{tmp_path}/nofile.py')
    (tmp_path / 'a.py').write_text('x = (')
    with pytest.raises(ValueError, match=r'no Python: line 1'):
        load_config(f'{tmp_path}/a.py')
    (tmp_path / 'a.py').write_text('x = 1')
    with pytest.raises(ValueError, match='no function get_config'):
        load_config(f'{tmp_path}/a.py')
    (tmp_path / 'a.py').write_text('def get_config(arg): return arg')
    assert load_config(f'{tmp_path}/a.py:b=1') == 'b=1'


def test_help_explains_every_key():
    combined = tune.get_config('method=spt_deep+lora')
    configs = [packs.get_config(), combined]
    configs += [tune.get_config(f'method={name}') for name in METHODS if name != 'retrain']
    for config in configs:
        for key, value in walk(config):
            if hasattr(value, 'items') and key.rpartition('.')[2] in ('tuner', 'transform'):
                continue  # a method without options
            assert sentence(config, key), key
    text = describe(combined)
    assert '--config.tuner.lora.rank=8\n      rank r of the update.' in text
    assert '--config.engine.eval_batch_size=64\n' in text
