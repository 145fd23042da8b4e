"""Opening a task's data: a named task, a folder of images, a packed npz, TFDS, own builders."""

import os
from dataclasses import replace
from pathlib import Path

from jax_prompt.data.draws import Draw
from jax_prompt.data.files import holds_images
from jax_prompt.data.source import Source, Split, check
from jax_prompt.data.subset_names import draw_subset, parse_subset
from jax_prompt.data.task import Task
from jax_prompt.data.tasks import ALL, find_task, nearest_tasks

__all__ = ['Source', 'Split', 'check', 'open_source']

_ALLOWED = (
    "a named task as 'vtab/dtd' (data/tasks.py), a folder with a subfolder per class (or "
    "train/val/test folders of these; 'image_folder:PATH' is the same; 'class_folders:PATH': all "
    'folders are classes), a packed .npz, '
    "'tfds:NAME[/CONFIG][:VERSION]', 'digits', 'shapes', or 'scenes/' and count, position, "
    'orientation or distance'
)
_FOLDERS = ('image_folder:', 'class_folders:')
_SCENES = ('count', 'position', 'orientation', 'distance')
_OWN = ('digits', 'shapes', *(f'scenes/{task}' for task in _SCENES))


def open_source(
    data: str,
    *,
    val_fraction: float = 0.2,
    test_fraction: float = 0.0,
    seed: int = 0,
    data_dir: str | None = None,
    draw_seed: int = 0,
) -> Source:
    """Opens a task's data; images are read later, labels now.

    Args:
      data: a named task ('vtab/clevr_count', `tasks.py`), a folder ('image_folder:PATH' says so,
        'class_folders:PATH' looks for no split folders), a packed .npz,
        'tfds:NAME[/CONFIG][:VERSION]', or one of the project's own: 'digits', 'shapes',
        'scenes/count', '.../position', '.../orientation', '.../distance'. In front of any,
        'fewshotK/', 'fractionP/' or 'longtailR/' takes a subset of it (`subset_names.py`).
      val_fraction: share of train that becomes val where the data has none.
      test_fraction: likewise test; 0: no test.
      seed: of the stratified draw of these.
      data_dir: where TFDS data is prepared; None: TFDS's own default.
      draw_seed: of subsets, so that runs of different seeds share one.

    Returns:
      The source, with 'train', 'val' and maybe 'test'.

    Raises:
      ValueError: nothing there, or what is there is no labelled set of images.
    """
    return _open(data, Draw(val_fraction, test_fraction, seed), data_dir, draw_seed)


def _open(data: str, draw: Draw, data_dir: str | None, draw_seed: int) -> Source:
    subset = parse_subset(data)
    if subset is not None:
        kind, amount, rest = subset
        # A val that is drawn must not wander into the subset.
        whole = _open(rest, draw._replace(seed=draw_seed), data_dir, 0)
        return draw_subset(whole, kind, amount, draw_seed)
    if data.startswith('tfds:') or data in _OWN:
        from jax_prompt.data.tfds_source import open_own, open_tfds

        if data in _OWN:
            return open_own(_own(data), draw, data_dir)
        return open_tfds(data.removeprefix('tfds:'), draw, data_dir)
    if any(task.name == data for task in ALL):
        return _open_task(data, draw, data_dir, draw_seed)
    found = folder_of(data)
    if found is not None:
        return _open_folder(*found, draw)
    path = Path(data).expanduser()
    if path.suffix == '.npz' and os.path.isfile(path):
        from jax_prompt.data.packed import open_packed

        return open_packed(path, draw)
    missing = '' if os.path.exists(path) else ' (no such file, folder or task)'
    near = f'; nearest tasks: {nearest_tasks(data)}' if nearest_tasks(data) else ''
    raise ValueError(f'data is {data!r}{missing}; allowed: {_ALLOWED}{near}')


def folder_of(data: str) -> tuple[Path, bool] | None:
    """Returns the folder that data names, and whether it may have split folders; else None."""
    kind = next((one for one in _FOLDERS if data.startswith(one)), '')
    path = Path(data.removeprefix(kind)).expanduser()
    # os.path: a name that is too long for a file is no file, where Path raises an error.
    named = data.startswith('tfds:') or data in _OWN or any(task.name == data for task in ALL)
    if parse_subset(data) is not None or named or not os.path.isdir(path):
        return None
    return path, kind != 'class_folders:'


def _open_folder(root: Path, split_folders: bool, draw: Draw) -> Source:
    from jax_prompt.data.folder import open_folder
    from jax_prompt.data.lists import find_lists, open_lists

    if split_folders and (lists := find_lists(root)):
        return open_lists(root, lists, draw)
    return open_folder(root, draw, split_folders=split_folders)


def _own(name: str) -> str:
    """Returns the name of one of the project's own tasks, if no folder of images has it too."""
    if Path(name).is_dir() and holds_images(Path(name)):
        raise ValueError(_both(name))
    return name


def _both(name: str) -> str:
    return f"data is {name!r}, a task and a folder; name the folder './{name}'"


def published_lists(task: Task, data_dir: str | None) -> Path | None:
    """Returns the folder of an FGVC task's published lists, DATA_DIR/fgvc/cub; None without."""
    if not task.name.startswith('fgvc/'):
        return None
    from jax_prompt.data.tfds_folders import data_root

    folder = data_root(data_dir) / task.name
    return folder if (folder / 'train.json').is_file() else None


def _open_task(name: str, draw: Draw, data_dir: str | None, draw_seed: int) -> Source:
    """Opens a row of a table."""
    if Path(name).is_dir():
        raise ValueError(_both(name))
    task = find_task(name)
    published = published_lists(task, data_dir)
    if published is not None:
        from jax_prompt.data.lists import find_lists, open_lists

        lists = find_lists(published)
        return replace(open_lists(published, lists, draw, exif=False), name=name)
    if task.rule is not None:
        from jax_prompt.data.ruled import open_ruled

        return open_ruled(task, data_dir)
    kind, _, rest = task.data.partition(':')
    if kind not in ('folder', 'listed'):
        return _open(task.data, draw, data_dir, draw_seed)
    from jax_prompt.data.tfds_folders import data_root

    root = data_root(data_dir) / rest
    if not root.is_dir():
        by_hand = task.manual.replace('DATA_DIR', str(data_root(data_dir)))
        raise ValueError(f'{name} needs {root}, which is missing: {by_hand}')
    if kind == 'listed':
        from jax_prompt.data.listed import open_listed

        return open_listed(root, val_percent=10, val_seed=0)
    from jax_prompt.data.folder import open_folder

    # Whole sets without parts of their own: 70, 10 and 20 % by one draw.
    return open_folder(root, Draw(0.1, 0.2, 0))
