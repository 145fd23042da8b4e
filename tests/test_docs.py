"""The words of the project name files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ('jax_prompt', '.', 'tests')  # a path in the words starts in one of these
PATH = re.compile(r'`(?:[^`\s]*\s)?((?:[a-z_0-9]+/)*[a-z_0-9]+\.(?:py|sh|md))(?=[`\s:,])')
OTHERS = ('torch/', 'pickletools.py')  # files of other projects
NAMES = {
    path.name
    for folder in ('jax_prompt', 'launch', 'configs', 'tests', 'docs')
    for path in (ROOT / folder).rglob('*')
}


def missing(text: str) -> list[str]:
    """Returns the paths in a text, between backticks, that name no file of the project."""
    paths = [path for path in dict.fromkeys(PATH.findall(text)) if not path.startswith(OTHERS)]
    return [path for path in paths if not _exists(path)]


def _exists(path: str) -> bool:
    if '/' not in path:  # a neighbour, by its name alone
        return path in NAMES
    return any((ROOT / folder / path).exists() for folder in FOLDERS)


@pytest.mark.parametrize('folder', ['docs', 'jax_prompt', 'launch', 'configs'])
def test_every_file_that_is_named_exists(folder):
    files = [ROOT / 'README.md', *(ROOT / folder).rglob('*.md'), *(ROOT / folder).rglob('*.py')]
    gone = {
        f'{file.relative_to(ROOT)}: {path}'
        for file in files
        for path in missing(file.read_text(encoding='utf-8'))
    }
    assert not gone


def test_a_file_that_is_gone_is_seen():
    text = 'see `train/loop.py`, `train/no_such.py` and `python launch/train.py --config x`'
    assert missing(text) == ['train/no_such.py']
    assert missing('`python launch/gone.py x`') == ['launch/gone.py']
