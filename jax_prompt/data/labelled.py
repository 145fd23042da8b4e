"""Other data for a trained classifier: a labelled set whose class names it knows."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from jax_prompt.core.printable import some
from jax_prompt.data.folder import find_files, split_of_files
from jax_prompt.data.layout import Layout, find_layout
from jax_prompt.data.lists import find_lists
from jax_prompt.data.open import folder_of
from jax_prompt.data.source import Source, Split

_NAMED = 20  # classes that an error names


def open_labelled(
    data: str, split: str, classes: Sequence[str], open_other: Callable[[str], Source]
) -> Split:
    """Opens labelled data for evaluation; labels become indices into the classifier's classes.

    A folder of class folders is one set, of all its images. Some classes may be missing there.

    Args:
      data: as in `open_source`.
      split: which split, where the data has splits.
      classes: names of the classifier's classes.
      open_other: opens data that is no folder of class folders.

    Raises:
      ValueError: no such split, or a class that the classifier does not know.
    """
    found = folder_of(data)
    if found is None or find_lists(found[0]):
        source = open_other(data)
        if split not in source.splits:
            raise ValueError(
                f'{source.name} has no split {split!r}; it has {sorted(source.splits)}'
            )
        part = source.splits[split]
        names = list(source.classes)
        codes = _codes(source.name, names, classes)
        return part if names == list(classes) else replace(part, labels=codes[part.labels])
    root, has_splits = found
    layout = find_layout(root) if has_splits else Layout({})
    if layout.splits and split not in layout.splits:
        raise ValueError(f'{root} has no split {split!r}; it has {sorted(layout.splits)}')
    place = layout.splits[split] if layout.splits else root
    files = find_files(root, Layout({split: place}, layout.notes))[split]
    names = sorted({file.label for file in files})
    codes = _codes(str(root), names, classes)
    place_of = {name: i for i, name in enumerate(names)}
    labels = codes[[place_of[file.label] for file in files]]
    return split_of_files(split, root, files, labels)


def _codes(where: str, names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Returns the classifier's index of each class, int32."""
    known = {name: i for i, name in enumerate(classes)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f'{where} has the classes {some(unknown, _NAMED, repr)}; this run knows '
            f'{some(classes, _NAMED, repr)}'
        )
    return np.array([known[name] for name in names], np.int32)
