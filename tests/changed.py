"""Which tests a change can touch: the import graph, followed backwards from the changed files.

    python tests/changed.py [BASE]

prints the test files, and the modules with doctests, that depend on a file that differs from BASE
(default `origin/main` where there is one, else `main`), one a line. Files that are not under
version control yet count too. `bash launch/test.sh --changed` runs what it prints.

A file depends on what it imports, in whatever function. A test also depends on what it names: a
script that it runs, such as `predict.py`, a module in the code that it gives to another process, or
the whole folder `configs`. A module of the package also depends on the data files beside it that it
names, such as `papers.csv`. Some files can touch every test: the
set-up of the tests, the environment, and data of the package or of the tests that nobody names.
They select everything.
"""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from test_imports import imports_of

ROOT = Path(__file__).resolve().parents[1]
EVERYTHING = ('pyproject.toml', 'launch/test.sh', 'tests/conftest.py', '.ci/run')
# They look at the whole repository, whatever changed.
ALWAYS = ('tests/test_imports.py', 'tests/test_package.py')


def changed_files(base: str | None = None, root: Path = ROOT) -> set[str]:
    """Returns the files that differ from `base`, relative to the root, new and deleted ones too.

    Raises:
      ValueError: git does not know `base`.
    """

    def git(*words: str) -> list[str]:
        done = subprocess.run(['git', *words], cwd=root, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f'git {" ".join(words)}: {done.stderr.strip()}; name another base')
        return [name for name in done.stdout.split('\0') if name]

    if base is None:
        branches = git('branch', '--all', '--format=%(refname:short)%00')
        base = 'origin/main' if 'origin/main' in map(str.strip, branches) else 'main'
    since = git('merge-base', base, 'HEAD')[0].strip()
    differing = git('diff', '--name-only', '-z', since)
    return {*differing, *git('ls-files', '--others', '--exclude-standard', '-z')}


def sources(root: Path) -> dict[str, str]:
    """Returns the text of each Python file and notebook by its path relative to the root."""
    folders = ('jax_prompt', 'tests', 'launch', 'configs')
    paths = [path for folder in folders for path in (root / folder).rglob('*.py')]
    paths += (root / 'docs').glob('*.ipynb')
    return {path.relative_to(root).as_posix(): path.read_text(encoding='utf-8') for path in paths}


def dependencies(root: Path = ROOT, extra: frozenset[str] = frozenset()) -> dict[str, set[str]]:
    """Returns the files that each Python file imports or names.

    Args:
      root: the repository.
      extra: other files whose names count as dependencies where a file's text holds them.
    """
    texts = sources(root)
    modules = {}
    for file in texts:
        if not file.endswith('.py'):
            continue
        name = file.removesuffix('.py').removesuffix('/__init__').replace('/', '.')
        modules[name] = file
        if file.startswith(('tests/', 'launch/')):  # imported from their own folder
            modules[name.split('.', 1)[1]] = file
    scripts = {file for file in texts if file.startswith(('launch/', 'configs/', 'docs/'))}
    by_name: dict[str, set[str]] = {}
    for file in scripts | extra:
        by_name.setdefault(Path(file).name, set()).add(file)

    def imported(file: str) -> set[str]:
        found, names = set(), set()
        if file.endswith('.py'):
            names = {item.name for item in imports_of(root / file, root)}
        if file.startswith(('tests/', 'docs/', 'launch/', 'jax_prompt/cli/')):
            names |= set(re.findall(r'\bjax_prompt(?:\.\w+)+', texts[file]))
            for module, some in re.findall(
                r'from (jax_prompt[.\w]*) import ([\w, ]+)', texts[file]
            ):
                names |= {f'{module}.{name.strip()}' for name in some.split(',')}
        for name in names:
            while name and name not in modules:  # an attribute of a module
                name = name.rpartition('.')[0]
            if name:
                found.add(modules[name])
        return found

    def named(file: str) -> set[str]:
        room = file.split('/')[0]
        if room not in ('tests', 'jax_prompt'):
            return set()
        words = set(re.findall(r'[\w-]+\.\w+', texts[file]))
        found = {other for word in words & by_name.keys() for other in by_name[word]}
        if room == 'tests' and re.search(r"\bconfigs\b[/']", texts[file]):
            found |= {other for other in texts if other.startswith('configs/')}
        return found if room == 'tests' else {f for f in found if f.startswith('jax_prompt/')}

    return {file: (imported(file) | named(file)) - {file} for file in texts}


def touched(changed: set[str], root: Path = ROOT) -> list[str] | None:
    """Returns the tests, and modules with doctests, that a change can touch; None for all of them.

    Args:
      changed: the changed files, relative to the root.
      root: the repository.
    """
    texts = sources(root)
    extra = frozenset(changed - texts.keys())
    depends = dependencies(root, extra)
    known = texts.keys() | {name for names in depends.values() for name in names}
    shipped = {f for f in changed - known if f.startswith(('jax_prompt/', 'tests/'))}
    if changed & set(EVERYTHING) or shipped:
        return None

    @cache
    def importers(file: str) -> frozenset[str]:
        return frozenset(other for other, names in depends.items() if file in names)

    todo, reached = list(changed), set()
    while todo:
        file = todo.pop()
        if file in reached:
            continue
        reached.add(file)
        todo += importers(file)
        if file.endswith('/conftest.py'):
            folder = file.removesuffix('conftest.py')
            todo += [other for other in texts if other.startswith(folder)]
    tests = {f for f in reached & texts.keys() if Path(f).name.startswith('test_')}
    doctests = {f for f in reached & texts.keys() if f.startswith('jax_prompt/')}
    return sorted(tests | {f for f in doctests if '>>>' in texts[f]} | set(ALWAYS))


if __name__ == '__main__':
    try:
        selected = touched(changed_files(*sys.argv[1:2]))
    except ValueError as error:
        sys.exit(str(error))
    print('\n'.join(['tests', 'jax_prompt'] if selected is None else selected))
