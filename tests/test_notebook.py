"""The notebook runs from top to bottom, and what it shows is what it was saved with."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / 'docs' / 'quickstart.ipynb'


def shown(notebook):
    """Returns the kinds of what each code cell shows, pictures and text."""
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    return [[sorted(out.get('data', {'text': ''})) for out in cell.outputs] for cell in cells]


# What the reader takes, and what the test takes: the pictures need curves, not accuracy.
BRIEF = {
    "TASK = 'scenes/orientation'": "TASK = 'fewshot8/scenes/orientation'",
    'EPOCHS = 10\n': 'EPOCHS = 2\n',
    "settings |= {'batch_size': 8,": "settings |= {'batch_size': 8, 'image_size': 8,",
}


def _train_briefly(notebook):
    for long, short in BRIEF.items():
        (cell,) = [cell for cell in notebook.cells if long in cell.source]
        cell.source = cell.source.replace(long, short)


# The kernel's own: jupyter_client and its event loop tell of ports and loops that they close late.
@pytest.mark.filterwarnings('ignore::ResourceWarning', 'ignore::DeprecationWarning')
def test_the_notebook_runs_and_shows_what_it_was_saved_with(tmp_path):
    saved = nbformat.read(NOTEBOOK, as_version=4)
    notebook = nbformat.from_dict(saved)
    _train_briefly(notebook)
    resources = {'metadata': {'path': str(tmp_path)}}  # where runs/ is made
    NotebookClient(notebook, timeout=900, kernel_name='python3', resources=resources).execute()
    assert shown(notebook) == shown(saved)
    pictures = sum('image/png' in kinds for cell in shown(notebook) for kinds in cell)
    assert pictures == 4
    assert not any(
        'stderr' in out.get('name', '')
        for c in notebook.cells
        if c.cell_type == 'code'
        for out in c.outputs
    )
