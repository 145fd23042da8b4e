"""The command `jax-prompt`: its help, its tables, and configurations by name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from jax_prompt.backbones.table import TABLE
from jax_prompt.cli import train
from jax_prompt.cli.main import COMMANDS, main, overview, run_command
from jax_prompt.data.tasks import ALL
from jax_prompt.methods import METHODS
from jax_prompt.suite.keys import load_config
from jax_prompt.suite.named_configs import config_names, find_config

ROOT = Path(__file__).resolve().parents[2]


def test_help_fits_a_screen_and_names_every_command():
    lines = overview().splitlines()
    assert 20 <= len(lines) <= 40 and max(map(len, lines)) <= 100
    for name in COMMANDS:
        assert any(line.startswith(f'  {name} ') for line in lines), name


@pytest.mark.parametrize('name', COMMANDS)
def test_each_command_says_how_to_use_it(name, capsys):
    with pytest.raises(SystemExit) as ended:
        run_command([name, '--help'])
    said = capsys.readouterr().out
    assert not ended.value.code
    assert f'jax-prompt {name}' in said and re.search(r'^ +--?\w', said, re.MULTILINE)


def test_a_wrong_command_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as ended:
        main(['prepare_dta'])
    assert ended.value.code == 2
    assert 'did you mean prepare-data?' in capsys.readouterr().err


def test_launch_scripts_are_shims():
    shims = {path: path.read_text(encoding='utf-8') for path in (ROOT / 'launch').glob('*.py')}
    calls = [
        re.search(r"^    enter\('(jax_prompt\.cli\.\w+)', sys\.argv\[1:\]\)$", text, re.MULTILINE)
        for text in shims.values()
    ]
    named = {call[1] for call in calls if call}
    assert len(shims) >= 10 and all(calls)
    assert named <= {module for module, _ in COMMANDS.values()}
    assert max(text.count('\n') for text in shims.values()) < 12


def test_the_tables_hold_every_row(capsys, tmp_path):
    for command, rows in (('methods', METHODS), ('backbones', TABLE), ('tasks', ALL)):
        words = ['--data_dir', str(tmp_path)] if command == 'tasks' else []
        run_command([command, *words])
        first, *lines = capsys.readouterr().out.splitlines()
        names = [getattr(row, 'name', row) for row in rows]
        assert [line.split()[0] for line in lines] == names, first
    found = dict(zip(names, lines, strict=True))
    assert ' ready ' in found['digits'] and ' missing ' in found['vtab/dtd']


def test_tables_fit_the_terminal(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('JAX_PROMPT_CACHE', str(tmp_path))
    words = {'methods': [], 'backbones': [], 'tasks': ['--data_dir', str(tmp_path)]}
    for command, own in words.items():
        run_command([command, *own])
        whole = capsys.readouterr().out
        with monkeypatch.context() as patch:
            patch.setenv('COLUMNS', '100')
            patch.setattr(sys.stdout, 'isatty', lambda: True)
            run_command([command, *own])
        wrapped = capsys.readouterr().out
        assert max(map(len, wrapped.splitlines())) <= 100
        assert wrapped.split() == whole.split()


def test_methods_say_which_families_they_fit(capsys):
    run_command(['methods'])
    cells = {row[0]: row[1:4] for row in map(str.split, capsys.readouterr().out.splitlines())}
    assert cells['method'] == ['vit', 'swin', 'resnet']
    assert cells['vpt_deep'] == ['yes', 'yes', '-'] and cells['vpt_pad'] == ['yes'] * 3


def test_a_configuration_has_a_name_and_a_file():
    assert config_names() == sorted(path.stem for path in (ROOT / 'configs').glob('*.py'))
    for name in config_names():
        asked = f'{ROOT}/configs/{name}.py'
        assert find_config(f'{name}:a=b') == f'{asked}:a=b' and find_config(asked) == asked
    named, filed = (load_config(f'{one}:method=lora') for one in ('tune', 'configs/tune.py'))
    assert named.to_dict() == filed.to_dict()


@pytest.mark.parametrize(
    ('asked', 'text'),
    [
        ('tun:method=lora', r"no configuration 'tun'; did you mean tune\?; allowed: .*vtab"),
        ('nowhere/tune.py', 'no config file nowhere/tune.py; the package has this one by name'),
        ('nowhere/mine.py', 'no config file nowhere/mine.py; allowed: a file, or one of .*fgvc'),
    ],
)
def test_a_wrong_name_of_a_configuration_names_what_there_is(asked, text):
    with pytest.raises(ValueError, match=text):
        find_config(asked)


@pytest.mark.parametrize('form', ['--config={}', '--config {}', '-config={}'])
def test_flags_reach_the_run(form, monkeypatch):
    seen = []
    monkeypatch.setattr(train, 'run', lambda config, workdir: seen.append((config, workdir)))
    words = form.format('tune:method=lora,backbone=swin_micro').split()
    words += ['--config.data=x', '--config.lr', '0.5', '--config.search=False']
    words += ['--config.tuner.rank=2', '--workdir', '~/w', '--compilation_cache=']
    run_command(['train', *words])
    ((config, workdir),) = seen
    assert (config.method, config.backbone, config.lr) == ('lora', 'swin_micro', 0.5)
    assert config.tuner['rank'] == 2 and not config.search and workdir == Path.home() / 'w'


@pytest.mark.parametrize(
    ('words', 'text'),
    [
        (['--config', 'tune'], '--workdir missing; see jax-prompt train --help'),
        (['--config', 'tune', '--workdir', 'w', 'x'], r"unknown arguments \['x'\]"),
        (['--config', 'tune', '--workdir', 'w', '--config.lrr=1'], 'did you mean lr'),
        (['--config', 'tune', '--workdir', 'w', '--worker=1'], 'worker'),
        (['--config', 'tune', '--workdir', 'w', '--config.lr=x'], r'config\.lr.*x'),
        (['--workdir', 'w', '--config'], r'--config has no value; allowed: .*tune'),
        (['--workdir', 'w'], '--config missing'),
    ],
)
def test_wrong_flags_are_named(words, text):
    with pytest.raises(ValueError, match=text):
        run_command(['train', *words])


def test_the_keys_of_a_configuration_are_listed(capsys):
    with pytest.raises(SystemExit):
        run_command(['train', '--config', 'tune:method=lora', '--help'])
    assert '--config.tuner.rank=8\n' in capsys.readouterr().out


_LIGHT = """
import sys
HEAVY = 'jax', 'numpy', 'flax', 'absl', 'tensorflow_datasets'
import jax_prompt
from jax_prompt.cli.main import overview
overview()
print([name for name in HEAVY if name in sys.modules])
assert 'tune' in dir(jax_prompt)
try:
    jax_prompt.tuned
except AttributeError as error:
    print(error)
jax_prompt.tune
print('jax' in sys.modules, 'tensorflow_datasets' in sys.modules, 'matplotlib' in sys.modules)
"""


def test_the_package_and_the_help_import_nothing():
    done = subprocess.run(
        [sys.executable, '-c', _LIGHT], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    nothing, wrong, after = done.stdout.splitlines()
    assert nothing == '[]' and after == 'True False False'
    assert "no attribute 'tuned'; it has ['Tuned'" in wrong
