"""Prepared TFDS data from tfrecord to array_record, without TensorFlow.

Both formats hold the same serialized examples, so the bytes of every record are copied: the
converted data has the same examples in the same shards and order, and every split of TFDS's split
API, 'train[:800]' for example, names the same examples.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from jax_prompt.core.files import temporary_folder
from jax_prompt.data.tfds_files import open_builder
from jax_prompt.data.tfds_folders import INFO, move_into_place
from jax_prompt.data.tfrecord import read_records

_FROM, _TO = 'tfrecord', 'array_record'


def convert(
    folder: Path,
    data_dir: Path,
    *,
    check: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Converts the folder of one prepared version of a builder.

    The result is written beside its place and renamed in one step; what is there already stays.

    Args:
      folder: prepared data, as '~/tensorflow_datasets/dtd/3.0.1'.
      data_dir: where converted data goes, another root than the folder's own.
      check: compare every record's checksum.
      report: called with a line for each shard.

    Returns:
      The new folder.

    Raises:
      ValueError: the folder holds no tfrecord data, or its files do not fit its description.
    """
    if not (folder / INFO).is_file():
        raise ValueError(f'{folder} has no {INFO}; name the folder of a version, as dtd/3.0.1')
    import tensorflow_datasets as tfds

    info = open_builder(folder).info
    formats = sorted(one.value for one in info.available_file_formats())
    if info.file_format is None or info.file_format.value != _FROM:
        raise ValueError(f'{folder} is prepared as {formats}; only {_FROM} is converted')
    final = data_dir / info.full_name
    if (final / INFO).is_file():
        return final
    if final.resolve() == folder.resolve():
        raise ValueError(f'{final} is the folder itself; name another data_dir')
    final.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(data_dir, '.convert_') as temporary:
        made = temporary / final.name
        made.mkdir()
        shards: set[str] = set()
        for split in info.splits.values():
            for name, count in zip(split.filenames, split.shard_lengths, strict=True):
                _copy_shard(folder / name, made / _renamed(name), count, check)
                shards.add(name)
                report(f'{name}: {count} examples')
        for path in folder.iterdir():
            if path.is_file() and path.name not in {*shards, INFO}:
                shutil.copyfile(path, made / path.name)
        _describe(folder / INFO, made / INFO)
        _check_first(tfds, made)
        move_into_place(made, final)
    return final


def _renamed(name: str) -> str:
    if f'.{_FROM}' not in name:
        raise ValueError(f"{name}: a shard's name has '.{_FROM}' in it")
    return name.replace(f'.{_FROM}', f'.{_TO}')


def _copy_shard(source: Path, target: Path, count: int, check: bool) -> None:
    from array_record.python import array_record_module

    if not source.is_file():
        raise ValueError(f'{source} is missing; its folder is not whole')
    writer = array_record_module.ArrayRecordWriter(str(target), 'group_size:1')
    found = 0
    try:
        for record in read_records(source, check):
            writer.write(record)
            found += 1
    finally:
        writer.close()
    if found != count:
        raise ValueError(f'{source} has {found} examples; its description says {count}')


def _describe(source: Path, target: Path) -> None:
    """Writes the description of the converted data."""
    described = json.loads(source.read_text(encoding='utf-8'))
    for split in described.get('splits', []):
        template = split.get('filepathTemplate', '{FILEFORMAT}')
        if '{FILEFORMAT}' not in template:
            raise ValueError(f'{source}: template {template!r} of split {split.get("name")!r}')
    described['fileFormat'] = _TO
    target.write_text(json.dumps(described, indent=2, sort_keys=True), encoding='utf-8')


def _check_first(tfds, folder: Path) -> None:
    """Parses the first example of every split, so that a wrong set of files is seen here."""
    builder = tfds.builder_from_directory(folder)
    skip = {
        key: tfds.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    for name, split in builder.info.splits.items():
        if not split.num_examples:
            continue
        try:
            builder.as_data_source(name, decoders=skip, file_format=_TO)[0]
        except Exception as error:  # protobuf's errors have no common base but this
            text = f'{type(error).__name__}: {error}'
            raise ValueError(
                f"{builder.info.full_name}: the first example of {name} can't be read: {text}"
            ) from error
