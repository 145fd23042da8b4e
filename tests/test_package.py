"""The repository as a package: its files, its version, its declared needs."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import import_module, metadata
from pathlib import Path

import pytest
from test_imports import imports_of, sources

import jax_prompt

ROOT = Path(__file__).resolve().parents[1]
MAX_BYTES = 5_000_000
MAX_LINES = 300
MAX_LINES_OF_TESTS = 330
MAX_LINES_OF_A_FUNCTION = 60
# Folders that exist on one machine only; in pieces, so that this file passes its own test.
_MACHINE = re.compile(r'(?<![\w.~:/-])/(' + 'root|home|Users|work|tmp|opt|mnt' + r')/\w')


@pytest.fixture(scope='module')
def files() -> list[Path]:
    """The repository's files: those under version control and those about to be."""
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', '-z']
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip('git is not installed')
    if done.returncode != 0:
        pytest.skip('not a git checkout')
    return [path for name in done.stdout.split('\0') if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str | None:
    """Returns a file's text, None for a binary one."""
    data = path.read_bytes()
    if b'\0' in data:
        return None
    try:
        return data.decode('utf-8')
    except UnicodeDecodeError:
        return None


@pytest.fixture(scope='module')
def project() -> dict:
    return tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))


def test_no_file_names_a_folder_of_one_machine(files):
    found = [
        f'{path.relative_to(ROOT)}:{number}: {line.strip()}'
        for path in files
        if path.name != 'LICENSE' and (text := text_of(path)) is not None
        for number, line in enumerate(text.splitlines(), 1)
        if _MACHINE.search(line)
    ]
    assert not found


@pytest.mark.parametrize('line', ["open('/ho" + "me/me/x')", 'cd /wo' + 'rk/main'])
def test_folders_of_one_machine_are_seen(line):
    assert _MACHINE.search(line)


@pytest.mark.parametrize(
    'line', ['https://a.example/home/x', './wo' + 'rk/x', 'runs/tmp/x', '[B/H]']
)
def test_other_paths_pass(line):
    assert not _MACHINE.search(line)


def test_no_large_file(files):
    large = {str(p.relative_to(ROOT)): p.stat().st_size for p in files}
    assert not {name: size for name, size in large.items() if size > MAX_BYTES}


def test_no_long_source_file(files):
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding='utf-8').splitlines())
        for path in files
        if path.suffix in ('.py', '.sh')
    }
    assert lines, 'no source files found'
    most = {name: MAX_LINES_OF_TESTS if name.startswith('tests/') else MAX_LINES for name in lines}
    assert not {name: count for name, count in lines.items() if count > most[name]}


def test_no_long_function():
    long = [
        f'{path.name}: {node.name} has {node.end_lineno - node.lineno + 1} lines'
        for folder in ('jax_prompt', 'launch', 'configs')
        for path in sorted((ROOT / folder).rglob('*.py'))
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno >= MAX_LINES_OF_A_FUNCTION
    ]
    assert not long


def test_the_version_has_one_source(project):
    assert 'version' not in project['project']
    assert project['project']['dynamic'] == ['version']
    assert project['tool']['setuptools']['dynamic']['version']['attr'] == 'jax_prompt.__version__'
    assert re.fullmatch(r'\d+\.\d+\.\d+(\.?(dev|a|b|rc)\d+)?', jax_prompt.__version__)


def test_the_installed_version_is_this_one():
    try:
        installed = metadata.version('jax-prompt')
    except metadata.PackageNotFoundError:
        pytest.skip('jax-prompt runs from its folder, not installed')
    assert installed == jax_prompt.__version__


def test_every_folder_of_the_package_ships(project):
    """A folder that the list of packages lacks would be missing from the wheel."""
    folders = {path.parent for path in (ROOT / 'jax_prompt').rglob('*.py')}
    assert not [str(f.relative_to(ROOT)) for f in folders if not (f / '__init__.py').exists()]
    found = {'.'.join(folder.relative_to(ROOT).parts) for folder in folders}
    listed, mapped = (project['tool']['setuptools'][key] for key in ('packages', 'package-dir'))
    assert sorted(listed) == sorted({*found, *mapped}) and mapped == {
        'jax_prompt.configs': 'configs'
    }


def test_the_command_is_there(project):
    ((name, target),) = project['project']['scripts'].items()
    module, _, function = target.partition(':')
    assert name == 'jax-prompt' and callable(getattr(import_module(module), function))


def test_what_is_imported_is_declared(project):
    """An import that only another package's needs bring along breaks when those change."""
    needs = project['project']['dependencies']
    needs += [one for some in project['project']['optional-dependencies'].values() for one in some]
    declared = {re.split(r'[^\w.-]', one)[0].lower().replace('_', '-') for one in needs}
    owners = metadata.packages_distributions()
    tops = {item.name.split('.')[0] for path in sources() for item in imports_of(path)}
    others = {top for top in tops - sys.stdlib_module_names - {'jax_prompt'} if top in owners}
    assert {'jax', 'PIL', 'absl', 'requests', 'ml_collections'} <= others
    undeclared = {
        top for top in others if not {o.lower().replace('_', '-') for o in owners[top]} & declared
    }
    assert not undeclared


def test_data_files_of_the_package_ship(files, project):
    data = project['tool']['setuptools']['package-data']
    shipped = {
        path
        for package, patterns in data.items()
        for pattern in patterns
        for path in (ROOT / package.replace('.', '/')).glob(pattern)
    }
    others = [p for p in files if p.is_relative_to(ROOT / 'jax_prompt') and p.suffix != '.py']
    assert not [str(p.relative_to(ROOT)) for p in others if p not in shipped]
