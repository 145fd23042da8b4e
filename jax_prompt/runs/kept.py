"""The data and the backbone of a run stay the same: what its directory keeps, and what is compared.

`split.json.gz` says which images were train, val and test. `backbone.json` holds a hash of the
weights: checkpoints hold what trains alone, so trained on with other frozen weights they would be
another run, and nothing would say so.
"""

from pathlib import Path
from typing import Any

from jax_prompt.core.json_file import load_object
from jax_prompt.data.kept import Kept, changes, describe, open_kept, read_kept, write_kept
from jax_prompt.data.labelled import open_labelled
from jax_prompt.data.open import folder_of
from jax_prompt.data.source import Source, Split
from jax_prompt.runs.backbone import LoadedBackbone, check_content
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.inputs import open_data
from jax_prompt.train.log import write_json
from jax_prompt.train.processes import from_primary

_SPLIT, _WEIGHTS = 'split.json.gz', 'backbone.json'
_WEIGHTS_BACK = 'put it back from a copy, or remove it: the weights are then taken as they are now'
# Where none of these is, nothing was trained yet.
_TRAINED = ('metrics.jsonl', 'checkpoints', 'search', 'result.json', 'chosen.json')


def keep(source: Source, workdir: Path) -> None:
    """Keeps the split of a run that begins; of one that goes on, compares it.

    Raises:
      ValueError: the data has changed since the run began.
    """

    def compare() -> None:
        path = workdir / _SPLIT
        kept = read_kept(path) if has_begun(workdir) else None
        if kept is None:
            write_kept(path, describe(source))
        else:
            _compare(kept, source, workdir)

    from_primary(compare)


def keep_backbone(backbone: LoadedBackbone, file: str, workdir: Path) -> None:
    """Keeps which weights a run begins with; of one that goes on, compares them.

    Args:
      backbone: the weights.
      file: where they lie, for errors.
      workdir: the run directory.

    Raises:
      ValueError: they have changed since the run began.
    """
    if backbone.identity is None:
        return

    def compare() -> None:
        path = workdir / _WEIGHTS
        if has_begun(workdir) and path.exists():
            kept = load_object(path, _WEIGHTS_BACK, ('content', 'source'))
            needs = (
                f'the run in {workdir} began with others ({kept["source"]}). Put that file back, '
                'or take another --workdir'
            )
            check_content(backbone, kept['content'], file or 'the package', needs)
        else:
            assert backbone.identity is not None
            known = {'weights': backbone.identity.label, 'source': backbone.identity.source}
            write_json(path, {**known, 'content': backbone.content})

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
    _compare(kept_of(workdir, result), source, workdir)


def check_kept(config: RunConfig, workdir: Path) -> None:
    """Compares data with what a run or a search in a directory keeps of it, if it keeps any.

    Raises:
      ValueError: the data has changed, or can't be opened.
    """
    kept = read_kept(workdir / _SPLIT)
    if kept is not None:
        _compare(kept, open_data(config, config.data), workdir)


def kept_of(workdir: Path, result: dict[str, Any]) -> Kept:
    """Returns what a finished run keeps of its data.

    Args:
      workdir: the run directory.
      result: the content of its result.json, for runs that kept no list.
    """
    kept = read_kept(workdir / _SPLIT)
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


def _compare(kept: Kept, source: Source, workdir: Path) -> None:
    if changed := changes(kept, source):
        raise ValueError(
            f'{source.name} has changed since the run in {workdir} began: {changed}. Put it back '
            'as it was, or take another --workdir for the data as it is now'
        )
