"""The places that the deliberate defects change still exist, and their tests do."""

import pytest
from mutants import MUTANTS, ROOT


@pytest.mark.parametrize('mutant', MUTANTS, ids=lambda mutant: mutant.name)
def test_a_defect_changes_one_place(mutant):
    text = (ROOT / 'jax_prompt' / mutant.file).read_text(encoding='utf-8')
    assert text.count(mutant.right) == 1
    assert mutant.wrong != mutant.right
    assert all((ROOT / 'tests' / name).exists() for name in mutant.tests)


def test_names_are_unique_and_every_room_has_a_defect():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 25
    rooms = {mutant.file.split('/')[0] for mutant in MUTANTS}
    assert rooms >= {
        'core',
        'nn',
        'deq',
        'backbones',
        'tuners',
        'weights',
        'data',
        'train',
        'evals',
    }
