"""What a deliberate defect is."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """A defect.

    Attributes:
      name: what it is called here.
      file: the file, in `jax_prompt/`.
      right: the text as it is, once in the file.
      wrong: the text that replaces it.
      tests: files or folders of tests, in `tests/`, of which one has to fail.
    """

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]
