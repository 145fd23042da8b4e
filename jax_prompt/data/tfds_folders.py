"""Where prepared TFDS data lies: from 'NAME[/CONFIG][:VERSION]' to a folder."""

import os
import re
from pathlib import Path

_SPEC = re.compile(r'^(?P<name>\w+)(/(?P<config>[^:]+))?(:(?P<version>\d+\.\d+\.\d+))?$')
_VERSION = re.compile(r'^\d+\.\d+\.\d+$')
INFO = 'dataset_info.json'  # the description of prepared data, in its folder


def data_root(data_dir: str | None) -> Path:
    """Returns the folder in which data is prepared; None: TFDS's default."""
    if data_dir:
        return Path(data_dir).expanduser()
    import tensorflow_datasets as tfds

    return Path(tfds.core.constants.DATA_DIR).expanduser()


def _find(name: str, config: str | None, version: str | None, root: Path) -> Path:
    """Returns the folder of prepared data.

    Raises:
      ValueError: there is none, or several configs and none is asked for.
    """
    full = f'{name}/{config}' if config else name
    base = root / full
    versions = _versions(base)
    if not versions and not config:
        configs = sorted(p.name for p in base.iterdir() if _versions(p)) if base.is_dir() else []
        if len(configs) > 1:
            raise ValueError(f'{base} holds configs {configs}; name one: tfds:{name}/{configs[0]}')
        if configs:
            full = f'{name}/{configs[0]}'
            base = root / full
            versions = _versions(base)
    chosen = version or (versions[-1] if versions else '')
    if chosen not in versions:
        found = f'; prepared there: {versions}' if versions else ''
        asked = f'{full}:{version}' if version else full
        raise ValueError(
            f'tfds:{asked} is not prepared in {base}{found}. {how_to_prepare(asked, root)}'
        )
    return base / chosen


def _versions(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    names = [p.name for p in folder.iterdir() if _VERSION.match(p.name) and (p / INFO).is_file()]
    return sorted(names, key=lambda name: [int(part) for part in name.split('.')])


def how_to_prepare(name: str, root: Path) -> str:
    """Returns the command that prepares a builder in a root."""
    return (
        'Prepare it (some sets need TensorFlow or a manual download for this), or set data_dir:\n'
        f"  python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}', "
        f"data_dir='{root}', file_format='array_record').download_and_prepare()\""
    )


def move_into_place(made: Path, final: Path) -> None:
    """Renames prepared data in one step; where another process was first, its own stays."""
    try:
        os.rename(made, final)
    except OSError:
        if not (final / INFO).is_file():
            raise


def prepared_folder(spec: str, root: Path) -> Path:
    """Returns the folder of prepared data, 'NAME[/CONFIG][:VERSION]', in a root.

    Raises:
      ValueError: it is not prepared there, or the specification is of another form.
    """
    match = _SPEC.match(spec)
    if match is None:
        raise ValueError(f"'tfds:{spec}'; allowed: tfds:NAME[/CONFIG][:VERSION]")
    return _find(match['name'], match['config'], match['version'], root)
