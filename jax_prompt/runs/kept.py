"""The data of a run stays the same: what a run directory keeps of it, and what is compared.

`split.json.gz` in the run directory says which images were train, val and test.
"""

from pathlib import Path
from typing import Any

from jax_prompt.data.kept import Kept, changes, describe, open_kept, read_kept, write_kept
from jax_prompt.data.labelled import open_labelled
from jax_prompt.data.open import folder_of
from jax_prompt.data.source import Source, Split
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.inputs import open_data
from jax_prompt.train.processes import from_primary

_NAME = 'split.json.gz'
# Where none of these is, nothing was trained yet.
_TRAINED = ('metrics.jsonl', 'checkpoints', 'search', 'result.json', 'chosen.json')


def keep(source: Source, workdir: Path) -> None:
    """Keeps the split of a run that begins; of one that goes on, compares it.

    Raises:
      ValueError: the data has changed since the run began.
    """

    def compare() -> None:
        path = workdir / _NAME
        kept = read_kept(path) if has_begun(workdir) else None
        if kept is None:
            write_kept(path, describe(source))
        elif changed := changes(kept, source):
            raise ValueError(_changed(source, workdir, changed))

    from_primary(compare)


def has_begun(workdir: Path) -> bool:
    """Whether a run or a search began to train in a directory."""
    return any((workdir / name).exists() for name in _TRAINED)


def check_unchanged(config: RunConfig, workdir: Path, result: dict[str, Any]) -> None:
    """Compares the data of a finished run with what it was, where it can be opened.

    Raises:
      ValueError: the data has changed.
    """
    try:
        source = open_data(config, config.data)
    except (ValueError, OSError):
        return  # gone, moved or damaged: the result stands
    if changed := changes(kept_of(workdir, result), source):
        raise ValueError(_changed(source, workdir, changed))


def check_kept(config: RunConfig, workdir: Path) -> None:
    """Compares data with what a run or a search in a directory keeps of it, if it keeps any.

    Raises:
      ValueError: the data has changed, or can't be opened.
    """
    kept = read_kept(workdir / _NAME)
    if kept is None:
        return
    source = open_data(config, config.data)
    if changed := changes(kept, source):
        raise ValueError(_changed(source, workdir, changed))


def kept_of(workdir: Path, result: dict[str, Any]) -> Kept:
    """Returns what a finished run keeps of its data.

    Args:
      workdir: the run directory.
      result: the content of its result.json, for runs that kept no list.
    """
    kept = read_kept(workdir / _NAME)
    if kept is not None and kept.fingerprint == result['data_fingerprint']:
        return kept
    classes = tuple(result['classes'])
    return Kept(result['data_fingerprint'], classes, dict(result['num_examples']), {})


def open_evaluated(
    config: RunConfig, kept: Kept, result: dict[str, Any], split: str, data: str
) -> tuple[Split, dict[str, Any]]:
    """Opens what a finished run is evaluated on.

    Args:
      config: of the run.
      kept: what it keeps of its data.
      result: the content of its result.json.
      split: which split.
      data: other data; '': the run's own.

    Returns:
      The split, and what has to be said with its result: 'data' where it is other data,
      'data_changed' how the run's own data differs from what it was (the images are those that it
      had), 'seen_in_training' where the split was trained on.

    Raises:
      ValueError: no such split, other classes, or data that changed and can't be told apart.
    """
    if data and not _same(data, config.data):
        part = open_labelled(data, split, kept.classes, lambda one: open_data(config, one))
        return part, {'data': data}
    source = open_data(config, config.data)
    said: dict[str, Any] = {}
    if split in result['trained_on'].split('+'):
        said['seen_in_training'] = True
    changed = changes(kept, source)
    if not changed:
        if split not in source.splits:
            have = sorted(source.splits)
            hold = '; input.test_fraction holds one out when a run trains' * (split == 'test')
            raise ValueError(f'{source.name} has no split {split!r}; it has {have}{hold}')
        return source.splits[split], said
    if source.folder is None or not kept.files:
        raise ValueError(
            f'{source.name} has changed since the run was trained: {changed}. Put it back as it '
            'was, or name data to evaluate: --data'
        )
    return open_kept(kept, source.folder, split), said | {'data_changed': changed}


def _same(data: str, other: str) -> bool:
    """Whether two names name the same data: the same words, or the same folder."""
    found, wanted = folder_of(data), folder_of(other)
    if found is None or wanted is None:
        return data == other
    return found[1] == wanted[1] and found[0].resolve() == wanted[0].resolve()


def _changed(source: Source, workdir: Path, changed: str) -> str:
    return (
        f'{source.name} has changed since the run in {workdir} began: {changed}. Put it back as it '
        'was, or take another --workdir for the data as it is now'
    )
