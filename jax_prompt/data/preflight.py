"""What of a task's data is there, and what to do about what is not."""

import importlib.util
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from jax_prompt.core.files import own_temporaries
from jax_prompt.data.download import check_reachable, download_mb
from jax_prompt.data.open import open_source, published_lists
from jax_prompt.data.subset_names import whole_of
from jax_prompt.data.task import Rule, Task
from jax_prompt.data.tasks import TASKS, find_task
from jax_prompt.data.tfds_files import check_folder
from jax_prompt.data.tfds_folders import INFO, data_root, prepared_folder
from jax_prompt.data.tfds_source import Prepared, open_prepared

READY, CONVERT, MISSING, UNFIT = 'ready', 'convert', 'missing', 'unfit'


@dataclass(frozen=True)
class State:
    """What of a task's data is there.

    Attributes:
      task: its name.
      state: 'ready'; 'convert': prepared as tfrecord; 'missing'; 'unfit': there, but not what the
        task's table says.
      detail: what is there, or what is wrong.
      todo: what to do, in commands and steps; (): nothing.
      licence: what the data's owners allow.
    """

    task: str
    state: str
    detail: str
    todo: tuple[str, ...] = ()
    licence: str = ''


def find_state(name: str, data_dir: str | None) -> State:
    """Returns the state of a named task's data; reads descriptions and names, no images.

    Args:
      name: of the task, or of a subset of one.
      data_dir: where data is prepared; None: TFDS's default.

    Raises:
      ValueError: there is no such task.
    """
    task = find_task(name)
    base = _base(task)
    root = data_root(data_dir)
    prepared = any(root.glob(f'jax_prompt_digits/*/{INFO}'))
    if base.name == 'digits' and not prepared and not _can_import('sklearn'):
        todo = ("pip install 'jax-prompt[quickstart]'",)
        return State(name, MISSING, 'made from scikit-learn, which is not installed', todo)
    if base in TASKS:
        return State(name, READY, 'generated or packaged; prepared on first use')
    kind, _, rest = base.data.partition(':')
    published = published_lists(base, str(root))
    if published is not None:
        return _look_at_folder(name, base, published, root)
    if kind == 'tfds':
        return _look_at_builder(name, base, rest, root)
    return _look_at_folder(name, base, root / rest, root)


def prepare(name: str, data_dir: str | None) -> Path:
    """Downloads and prepares a task's builder as array_record, and returns its folder.

    Raises:
      ValueError: TFDS does not know the data, or a manual download or TensorFlow is missing.
    """
    task = _base(find_task(name))
    kind, _, spec = task.data.partition(':')
    if kind != 'tfds':
        todo = task.manual or 'nothing is to be prepared for it'
        raise ValueError(f'{name} is no builder of TFDS: {todo}')
    import tensorflow_datasets as tfds

    root = data_root(data_dir)
    try:
        # TFDS makes a folder in the temporary one for each builder and leaves it there.
        with tempfile.TemporaryDirectory() as folder, own_temporaries(Path(folder)):
            builder = tfds.builder(spec, data_dir=root, file_format='array_record')
            check_reachable(name, getattr(builder, 'url_infos', None) or {})
            builder.download_and_prepare()
    except ImportError as error:
        raise ValueError(
            f'preparing {name} needs a package that is missing ({error}): '
            "pip install 'jax-prompt[prepare]'"
        ) from error
    except AssertionError as error:  # how TFDS reports a missing manual download
        manual = task.manual.replace('MANUAL', str(root / 'downloads' / 'manual'))
        raise ValueError(f'{name} needs a manual download: {manual or error}') from error
    except OSError as error:  # a lost connection, a refused address, a full disk
        if error.errno is not None:
            raise
        reason = ' '.join(str(error).split())[:300]
        raise ValueError(f'{name} was not downloaded: {reason}; start again to go on') from error
    return Path(builder.data_dir)


def _can_import(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _base(task: Task) -> Task:
    """Returns the row that says where a task's data lies."""
    data = whole_of(task.data)
    named = ':' not in data and task not in TASKS
    return _base(find_task(data)) if named else task


def _look_at_folder(name: str, task: Task, folder: Path, root: Path) -> State:
    by_hand = (task.manual.replace('DATA_DIR', str(root)),)
    if not folder.is_dir():
        return State(name, MISSING, f'no {folder}', by_hand, task.licence)
    try:
        source = open_source(task.name, data_dir=str(root))
    except ValueError as error:
        return State(name, UNFIT, str(error), by_hand, task.licence)
    sizes = tuple(len(source.splits[one]) for one in ('train', 'val', 'test'))
    wrong = []
    if task.sizes is not None and sizes != tuple(task.sizes):
        wrong.append(f'{sizes} images; the table says {tuple(task.sizes)}')
    if len(source.classes) != task.num_classes:
        wrong.append(f'{len(source.classes)} classes; the table says {task.num_classes}')
    if wrong:
        return State(name, UNFIT, f'{folder}: {"; ".join(wrong)}', by_hand, task.licence)
    return State(name, READY, str(folder), (), task.licence)


def _look_at_builder(name: str, task: Task, spec: str, root: Path) -> State:
    own = f'jax-prompt prepare-data --task {name} --data_dir {root}'
    manual = task.manual.replace('MANUAL', str(root / 'downloads' / 'manual'))
    try:
        folder = prepared_folder(spec, root)
    except ValueError:
        todo = tuple(line for line in (manual, own) if line)
        size = download_mb(spec)
        detail = f'no {spec} in {root}' + (f'; a download of {size:,.0f} MB' if size else '')
        return State(name, MISSING, detail, todo, task.licence)
    try:
        check_folder(folder)
    except ValueError as error:
        return State(name, UNFIT, str(error), (), task.licence)
    described = json.loads((folder / INFO).read_text(encoding='utf-8'))
    formats = [
        described.get('fileFormat', 'tfrecord'),
        *described.get('alternativeFileFormats', []),
    ]
    if 'array_record' not in formats:
        command = f'jax-prompt prepare-data --convert {folder} --data_dir ANOTHER'
        return State(name, CONVERT, f'{folder} is {formats[0]}', (command,), task.licence)
    prepared = open_prepared(spec, str(root))
    wrong = _misfits(prepared, task)
    if wrong:
        return State(name, UNFIT, f'{folder}: {"; ".join(wrong)}', (), task.licence)
    return State(name, READY, str(folder), (), task.licence)


def _misfits(prepared: Prepared, task: Task) -> list[str]:
    """Returns how prepared data differs from a task's row."""
    rule = task.rule
    if rule is None:
        return []
    try:
        sizes = split_sizes(rule, prepared.num_examples)
    except ValueError as error:
        return [str(error)]
    wrong = []
    if task.sizes is not None and sizes != tuple(task.sizes):
        wrong.append(f'train, val, test of {sizes} images; the table says {tuple(task.sizes)}')
    feature = dict(prepared.builder.info.features.items()).get(rule.label.keys[0])
    if feature is None:
        wrong.append(f'no feature {rule.label.keys[0]!r}')
    elif not rule.label.classes and not rule.classes:
        count = getattr(feature, 'num_classes', None)
        if count != task.num_classes:
            wrong.append(f'{count} classes; the table says {task.num_classes}')
    return wrong


def split_sizes(rule: Rule, num_examples: dict[str, int]) -> tuple[int, int, int]:
    """Returns how many images train, val and test of a rule have, before classes are left out.

    Raises:
      ValueError: a stored split is missing or too small.
    """
    sizes = {
        name: sum(len(part.span(num_examples)) for part in parts)
        for name, parts in rule.parts().items()
    }
    if not rule.val:
        whole = sizes['train']
        sizes['train'] = (100 - rule.val_percent) * whole // 100
        sizes['val'] = whole - sizes['train']
    return sizes['train'], sizes['val'], sizes['test']
