"""docs/api.md says what the docstrings of the Python interface say."""

from api_page import PAGE, page

import jax_prompt
from jax_prompt import api


def test_the_page_is_made_from_the_docstrings():
    text = page()
    assert PAGE.read_text(encoding='utf-8') == text, 'run python tests/api_page.py'
    for name in ('tune', 'load', 'Tuned'):
        assert f'## jax_prompt.{name}\n' in text and getattr(jax_prompt, name) is getattr(api, name)
    assert '### Tuned.predict_proba\n' in text and '- `weights`: the backbone' in text
