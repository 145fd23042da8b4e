"""The tests that a change can touch, on a small repository and on this one."""

import subprocess

import pytest
from changed import changed_files, touched

FILES = {
    'jax_prompt/__init__.py': '',
    'jax_prompt/core/__init__.py': '',
    'jax_prompt/core/tree.py': 'def f():\n    """>>> 1\n    1\n    """\n',
    'jax_prompt/core/table.py': 'import csv\nPATH = "rows.csv"\n',
    'jax_prompt/core/rows.csv': '1',
    'jax_prompt/core/other.csv': '1',
    'jax_prompt/model.py': 'def g():\n    from jax_prompt.core.tree import f\n    return f()\n',
    'launch/train.py': 'from jax_prompt import model',
    'configs/tune.py': '',
    'docs/tour.ipynb': '"from jax_prompt.core import table"',
    'docs/notes.md': '',
    'tests/conftest.py': '',
    'tests/helper.py': 'from jax_prompt import model',
    'tests/test_model.py': 'import helper',
    'tests/test_train.py': 'SCRIPT = "train.py"',
    'tests/test_process.py': 'CODE = "import jax_prompt.core.tree as t"',
    'tests/test_tour.py': 'NOTEBOOK = "tour.ipynb"',
    'tests/core/conftest.py': '',
    'tests/core/test_table.py': 'from jax_prompt.core.table import PATH',
    'tests/test_configs.py': 'from configs import tune',
}
ALWAYS = {'tests/test_imports.py', 'tests/test_package.py'}


@pytest.fixture
def repository(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ('changed', 'tests'),
    [
        (
            'jax_prompt/core/tree.py',
            {'jax_prompt/core/tree.py', 'tests/test_model.py', 'tests/test_train.py'}
            | {'tests/test_process.py'},
        ),
        ('jax_prompt/model.py', {'tests/test_model.py', 'tests/test_train.py'}),
        ('jax_prompt/core/table.py', {'tests/core/test_table.py', 'tests/test_tour.py'}),
        ('jax_prompt/core/rows.csv', {'tests/core/test_table.py', 'tests/test_tour.py'}),
        ('launch/train.py', {'tests/test_train.py'}),
        ('configs/tune.py', {'tests/test_configs.py'}),
        ('docs/tour.ipynb', {'tests/test_tour.py'}),
        ('docs/notes.md', set()),
        ('tests/core/conftest.py', {'tests/core/test_table.py'}),
        ('tests/test_model.py', {'tests/test_model.py'}),
    ],
)
def test_what_depends_on_a_file_is_selected(repository, changed, tests):
    assert set(touched({changed}, repository)) == tests | ALWAYS


@pytest.mark.parametrize(
    'changed', ['tests/conftest.py', 'pyproject.toml', 'jax_prompt/core/other.csv']
)
def test_some_files_can_touch_every_test(repository, changed):
    assert touched({changed}, repository) is None


def test_changes_against_a_branch_are_those_of_commits_and_of_the_working_tree(repository):
    def git(*words):
        subprocess.run(['git', *words], cwd=repository, check=True, capture_output=True)

    git('init', '-q', '-b', 'main')
    git('config', 'user.email', 'a@example.org')
    git('config', 'user.name', 'a')
    git('add', '-A')
    git('commit', '-qm', 'all')
    assert changed_files(root=repository) == set()
    git('checkout', '-qb', 'other')
    (repository / 'configs/tune.py').write_text('1')
    git('commit', '-qam', 'one')
    (repository / 'docs/notes.md').unlink()
    (repository / 'tests/test_new.py').write_text('')
    want = {'configs/tune.py', 'docs/notes.md', 'tests/test_new.py'}
    assert changed_files(root=repository) == want
    with pytest.raises(ValueError, match='nowhere'):
        changed_files('nowhere', repository)


def test_this_repository_is_followed():
    assert 'tests/tuners/test_gated.py' in touched({'jax_prompt/tuners/gated.py'})
    assert 'tests/runs/test_config.py' in touched({'configs/tune.py'})
    assert 'tests/test_notebook.py' in touched({'jax_prompt/evals/recorder.py'})
    scatter = touched({'jax_prompt/report/scatter.py'})
    assert 'tests/report/test_pictures.py' in scatter
    assert 'tests/core/test_tree.py' not in scatter
