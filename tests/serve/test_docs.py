"""What docs/serving.md shows is there: the container's steps, flags and bounds."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

from jax_prompt.cli.serve import parse
from jax_prompt.serve.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs/serving.md').read_text(encoding='utf-8')


def steps():
    block = re.search(r'```dockerfile\n(.*?)```', PAGE, re.DOTALL)[1]
    return [tuple(line.split(' ', 1)) for line in block.strip().splitlines()]


def test_the_steps_of_the_container_build_and_its_command_is_one(tmp_path):
    found = steps()
    assert len(found) == 10 and found[0][0] == 'FROM'
    app, place = tmp_path / 'app', tmp_path / 'installed'
    app.mkdir()
    for _, what in (step for step in found if step[0] == 'COPY'):
        *sources, target = what.split()
        for source in map(ROOT.joinpath, sources):
            if source.is_dir():
                ignored = shutil.ignore_patterns('__pycache__')
                shutil.copytree(source, app / target, ignore=ignored)
            else:
                shutil.copy(source, app / target)
    install = next(what for step, what in found if step == 'RUN' and 'pip' in what)
    *words, what = shlex.split(install)
    path, extra = re.fullmatch(r'(.*)\[(\w+)\]', what).groups()
    assert words[:2] == ['pip', 'install'] and path == '.'
    project = tomllib.loads((app / 'pyproject.toml').read_text(encoding='utf-8'))['project']
    assert extra in project['optional-dependencies']
    # What it needs is here already, and no test reaches for an index.
    here = ['--no-deps', '--no-index', '--no-build-isolation', '--target', str(place), '-q', path]
    here.append('--no-compile')  # that this Python compiles is known, and takes its time
    command = [sys.executable, '-m', *words, *here]
    done = subprocess.run(command, cwd=app, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (place / 'jax_prompt/serve/server.py').is_file()
    assert (place / 'jax_prompt/backbones/vit_micro.safetensors').is_file()
    program, name, *rest = json.loads(next(what for step, what in found if step == 'CMD'))
    assert (place / 'bin' / program).is_file() and name == 'serve'
    args = parse(rest)
    ports = [what for step, what in found if step == 'EXPOSE']
    assert ports == [str(args.port)] and args.packs == Path('/packs')


def test_flags_and_bounds_of_the_page_are_those_of_the_command():
    known = {f.name: f.default for f in fields(Settings)}
    named = re.findall(r'`--([a-z_]+)`(?: \(?(\d+))?', PAGE)
    args = vars(parse(['--packs', 'x']))
    exported = {'arguments'}
    assert {name for name, _ in named} <= args.keys() | exported
    for name, value in named:
        if value and name != 'max_pixels':
            default = known.get(name, args.get(name))
            assert float(value) == default, (name, value, default)
    assert known['max_pixels'] == 50_000_000
    assert {n for n, v in named if v} >= {'max_queue', 'max_body_mb', 'max_images', 'timeout_s'}
