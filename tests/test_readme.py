"""What README's first screen shows runs, on a few small images and with few epochs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_data import encode, picture

from jax_prompt.cli import flags
from jax_prompt.cli.main import run_command
from jax_prompt.runs.config import resolve
from jax_prompt.suite.keys import load_config

ROOT = Path(__file__).resolve().parents[1]
# What the trainings of the first screen are given on top, in Python and as flags.
FEW = {'epochs': 2, 'batch_size': 8, 'search_lrs': (1e-3, 1e-2)}
FEW |= {'engine': {'eval_batch_size': 8, 'num_devices': 1}}
FLAGS = '--config.epochs=2 --config.batch_size=8 --config.search_lrs=(1e-3,1e-2)'
FLAGS += ' --config.engine.eval_batch_size=8 --config.engine.num_devices=1'
# Stands for the environment's Python: names no cores, and writes down what it is asked to run.
_PYTHON = """#!/bin/bash
case "$1" in
  -c) echo "" ;;
  *) echo "$@" >>"$ASKED" ;;
esac
"""


@pytest.fixture(scope='module')
def blocks():
    """The code of README by its heading, in lines."""
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    found = re.findall(r'^## ([^\n]+)\n(?:(?!^##).)*?^```\w+\n(.*?)^```', text, re.M | re.S)
    return {title: [line for line in code.splitlines() if line] for title, code in found}


def test_the_first_screen_has_two_five_and_five_lines(blocks):
    counts = {title: len(lines) for title, lines in list(blocks.items())[:3]}
    assert counts == {'Two commands': 2, 'Five lines of Python': 5, 'Five lines of shell': 5}


def test_python_and_shell_give_the_same(blocks, tmp_path, monkeypatch, capsys):
    for split, count in (('train', 10), ('test', 4)):
        for i in range(count):
            file = tmp_path / 'FOLDER' / split / 'ab'[i % 2] / f'{i}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode(picture(i + len(split), 32, 32)))
    shutil.copytree(tmp_path / 'FOLDER' / 'test' / 'a', tmp_path / 'IMAGES')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flags, '_keep_programs', lambda folder: None)  # of this whole process
    names: dict = {'FEW': FEW}
    code = '\n'.join(blocks['Five lines of Python'])
    assert code.count("workdir='runs/mine')") == 1
    exec(code.replace("workdir='runs/mine')", "workdir='runs/mine', **FEW)"), names)
    assert (names['again'].predict_proba('IMAGES') == names['tuned'].predict_proba('IMAGES')).all()
    result = Path('runs/mine/result.json').read_bytes()
    capsys.readouterr()
    said = []
    for line in blocks['Five lines of shell']:
        program, *words = shlex.split(line)
        assert program == 'jax-prompt'
        assert not run_command([*words, *(FLAGS.split() if words[0] == 'train' else [])])
        said.append(capsys.readouterr().out)
    assert (
        'holds this finished run' in said[0]
        and Path('runs/mine/result.json').read_bytes() == result
    )
    assert f'"accuracy": {names["tuned"].result["test_accuracy"]}' in said[1]
    assert said[2] == said[4] and said[2].count('IMAGES') == 2
    assert Path('mine.md').read_text(encoding='utf-8').startswith('# mine\n')


@pytest.mark.skipif(sys.platform == 'win32', reason='runs bash')
def test_the_two_commands_run_what_there_is(blocks, tmp_path):
    quickstart, tests = (shlex.split(line, comments=True) for line in blocks['Two commands'])
    assert quickstart == ['bash', 'launch/quickstart.sh'] and tests == ['bash', 'launch/test.sh']
    subprocess.run(['bash', '-n', tests[1]], cwd=ROOT, check=True)
    for folder in ('launch', 'venv/bin'):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / quickstart[1], tmp_path / 'launch')
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    python = tmp_path / 'venv' / 'bin' / 'python'
    python.write_text(_PYTHON)
    python.chmod(0o755)
    stamp = f'{{ "{sys.executable}" --version; pwd; cat pyproject.toml; }} | cksum > venv/stamp'
    subprocess.run(['bash', '-c', stamp], cwd=tmp_path, check=True)
    asked = tmp_path / 'asked'
    changes = {'PYTHON': sys.executable, 'JAX_PROMPT_VENV': 'venv', 'ASKED': str(asked)}
    subprocess.run(quickstart, cwd=tmp_path, env={**os.environ, **changes}, check=True, timeout=60)
    lines = [shlex.split(line) for line in asked.read_text().splitlines()]
    trained = [words for words in lines if words[0] == 'launch/train.py']
    configs = [resolve(load_config(words[words.index('--config') + 1])) for words in trained]
    assert len({(config.data, config.method) for config in configs}) == 10
    assert lines[-1][0] == 'launch/plot_curves.py' and len(lines) == 11
    assert all((ROOT / words[0]).is_file() for words in lines)
