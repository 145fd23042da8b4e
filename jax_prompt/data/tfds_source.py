"""TFDS: reads data that is prepared as array_record; needs no TensorFlow.

A split that the data lacks is the end of its train split: TFDS data is stored in a shuffled order.
Images are decoded by this project's decoder from their stored bytes: TFDS's own gives palette
indices for palette images and four channels for others where TensorFlow is absent.
"""

import contextlib
import io
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jax_prompt.core.files import own_temporaries, temporary_folder
from jax_prompt.data.decode import decode_image
from jax_prompt.data.draws import Draw
from jax_prompt.data.labels import LabelRule
from jax_prompt.data.labels import stored as stored_label
from jax_prompt.data.source import Source, Split, make_source, select
from jax_prompt.data.tfds_files import check_counts, check_empty, open_builder
from jax_prompt.data.tfds_folders import (
    INFO,
    data_root,
    how_to_prepare,
    move_into_place,
    prepared_folder,
)

_LOG = logging.getLogger(__name__)
_VAL_NAMES = ('validation', 'val', 'valid')
_UNLABELLED = -1
_READ = 256  # records read at a time
# What TFDS and its readers raise on damaged files; protobuf's DecodeError is a ValueError here.
_DAMAGE = (RuntimeError, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError)


def open_tfds(spec: str, draw: Draw, data_dir: str | None) -> Source:
    """Opens prepared TFDS data.

    Args:
      spec: 'NAME[/CONFIG][:VERSION]'; without a version, the newest that is prepared.
      draw: what is taken from the end of train where the data has no val or no test. Its seed is
        not used: the stored order is already random and the same everywhere.
      data_dir: where data is prepared; None: TFDS's default.

    Returns:
      The source; examples are named 'mnist/3.0.1/train[17]'.

    Raises:
      ValueError: not prepared, not as array_record, or without one image and one label feature.
    """
    return _open(open_prepared(spec, data_dir), draw)


def open_own(name: str, draw: Draw, data_dir: str | None) -> Source:
    """Opens the data of one of the project's builders, as 'digits'; see `open_tfds`.

    It is prepared on first use.
    """
    return _open(open_folder_of(prepare_own(name, data_dir)), draw)


def prepare_own(name: str, data_dir: str | None = None) -> Path:
    """Prepares one of the project's builders where it is not yet, and returns its folder.

    The data is made in a folder of its own and renamed in one step, so that a killed process leaves
    nothing half made, and of several at once the first wins and all read the same.
    """
    import tensorflow_datasets as tfds

    builder_class: Any
    name, _, task = name.partition('/')
    if name == 'digits':
        from jax_prompt.data.builders.digits import JaxPromptDigits as builder_class
    elif name == 'shapes':
        from jax_prompt.data.builders.shapes import JaxPromptShapes as builder_class
    else:
        from jax_prompt.data.builders.scenes import JaxPromptScenes as builder_class
    root = data_root(data_dir)
    relative = Path(builder_class.name) / task / str(builder_class.VERSION)
    final = root / relative
    if (final / INFO).is_file():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(root, '.prepare_') as temporary, own_temporaries(temporary):
        chosen = {'config': task} if task else {}
        builder = builder_class(data_dir=str(temporary), file_format='array_record', **chosen)
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        tfds.disable_progress_bar()  # a second of work
        with contextlib.redirect_stdout(io.StringIO()):  # it announces its temporary folder
            builder.download_and_prepare(download_config=config)
        move_into_place(temporary / relative, final)
    return final


@dataclass(frozen=True)
class Prepared:
    """Prepared TFDS data.

    Attributes:
      builder: of TFDS.
      name: 'mnist/3.0.1'.
      num_examples: examples of each stored split that has any.
    """

    builder: Any
    name: str
    num_examples: dict[str, int]

    def _records(self, split: str) -> Any:
        """Returns the serialized examples of a stored split, by index.

        Raises:
          ValueError: its files are damaged, or are not what its description says.
        """
        import tensorflow_datasets as tfds

        try:
            raw = self.builder.as_data_source(
                split,
                deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
                file_format='array_record',
            )
            check_counts(Path(self.builder.data_dir), self.builder.info, split)
        except _DAMAGE as error:
            raise ValueError(f"{self.name}/{split}: records can't be read: {error}") from error
        return raw

    def read_labels(self, split: str, span: range, rule: LabelRule) -> np.ndarray:
        """Reads the labels of consecutive examples of a stored split, [n] int32.

        Raises:
          ValueError: the records can't be read, or lack the rule's features.
        """
        import tensorflow_datasets as tfds

        features = self.builder.info.features
        missing = sorted(set(rule.keys) - set(features))
        if missing:
            raise ValueError(f'{self.name} has no features {missing}; it has {sorted(features)}')
        # Only these features are parsed: neither images nor texts.
        needed = tfds.features.FeaturesDict({key: features[key] for key in rule.keys})
        raw = self._records(split)
        labels = np.empty(len(span), np.int32)
        try:
            for start in range(0, len(span), _READ):
                records = raw.__getitems__(list(span[start : start + _READ]))
                examples = map(needed.deserialize_example_np, records)
                labels[start : start + _READ] = [rule.read(example) for example in examples]
        except _DAMAGE as error:
            raise ValueError(f"{self.name}/{split}: records can't be read: {error}") from error
        return labels

    def read_split(self, split: str, span: range, image: str, labels: np.ndarray) -> Split:
        """Returns consecutive examples of a stored split; `image` names the feature."""
        import tensorflow_datasets as tfds

        features = self.builder.info.features
        needed = tfds.features.FeaturesDict({image: features[image]})
        skip = {image: tfds.decode.SkipDecoding()}
        raw = self._records(split)

        def where(i: int) -> str:
            return f'{self.name}/{split}[{span[i]}]'

        def read(i: int) -> np.ndarray:
            try:
                data = needed.deserialize_example_np(raw[span[i]], decoders=skip)[image]
            except _DAMAGE as error:
                raise ValueError(f'{where(i)}: not a readable record: {error}') from error
            # TensorFlow's decoder does not turn images by their EXIF orientation.
            return decode_image(data, where(i), exif=False)

        return Split(split, labels, read, where)


def open_prepared(spec: str, data_dir: str | None) -> Prepared:
    """Opens prepared TFDS data by its specification; see `open_tfds`."""
    return open_folder_of(prepared_folder(spec, data_root(data_dir)))


def open_folder_of(folder: Path) -> Prepared:
    """Opens the folder of prepared TFDS data.

    Raises:
      ValueError: it is not prepared as array_record.
    """
    builder = open_builder(folder)
    info = builder.info
    formats = sorted(one.value for one in info.available_file_formats())
    if 'array_record' not in formats:
        root = folder.parents[len(Path(info.full_name).parts) - 1]
        raise ValueError(
            f'{folder} is prepared as {formats}; only array_record can be read without TensorFlow. '
            f'Convert it: jax-prompt prepare-data --convert {folder} --data_dir '
            f'{root}/array_record; or prepare it anew. '
            + how_to_prepare(info.full_name.rpartition('/')[0], root / 'array_record')
        )
    for key, one in info.splits.items():
        if not one.num_examples:
            check_empty(folder, key)
    counts = {key: one.num_examples for key, one in info.splits.items() if one.num_examples}
    return Prepared(builder, info.full_name, counts)


def _open(prepared: Prepared, draw: Draw) -> Source:
    name, stored, features = prepared.name, prepared.num_examples, prepared.builder.info.features
    image_key, label_key = _features(name, features)

    def whole(split: str) -> Split:
        span = range(stored[split])
        labels = prepared.read_labels(split, span, stored_label(label_key))
        return prepared.read_split(split, span, image_key, labels)

    if 'train' not in stored:
        raise ValueError(f'{name} has splits {list(stored)}; a train split is needed')
    splits = {'train': whole('train')}
    val = next((key for key in _VAL_NAMES if key in stored), None)
    for key, split in (('val', val), ('test', 'test' if 'test' in stored else None)):
        if split is None:
            continue
        part = whole(split)
        known = np.flatnonzero(part.labels != _UNLABELLED)
        if len(known) < len(part):
            _LOG.warning(
                "%s/%s: %d of its %d examples have the label -1, TFDS's mark of an unknown label; "
                'they are left out%s',
                *(name, split, len(part) - len(known), len(part)),
                '' if len(known) else f', so there is no {key} split of its own',
            )
            part = select(split, part, known)
        if len(part):
            splits[key] = part
    splits = _complete(name, splits, draw)
    return make_source(name, features[label_key].names, splits, [name])


def _features(name: str, features: Any) -> tuple[str, str]:
    """Returns the keys of the image and of the label."""
    import tensorflow_datasets as tfds

    found = []
    for usual, kind in (('image', tfds.features.Image), ('label', tfds.features.ClassLabel)):
        keys = [key for key, feature in features.items() if isinstance(feature, kind)]
        key = usual if usual in keys else keys[0] if len(keys) == 1 else None
        if key is None:
            raise ValueError(
                f"{name}: {usual} features {keys} among {sorted(features)}; one named '{usual}', "
                'or just one of its kind, is needed'
            )
        found.append(key)
    if features[found[0]].np_dtype != np.uint8:
        raise ValueError(f'{name}: {found[0]} is {features[found[0]].np_dtype}; wanted uint8')
    return found[0], found[1]


def _complete(name: str, splits: dict[str, Split], draw: Draw) -> dict[str, Split]:
    """Cuts val, and test where asked, off the end of train where the data has none."""
    train = splits['train']
    val = 0 if 'val' in splits else round(draw.val * len(train))
    test = 0 if 'test' in splits else round(draw.test * len(train))
    left = len(train) - val - test
    if left < 1 or min(val, test) < 0 or not ('val' in splits or val):
        raise ValueError(
            f'{name} has {sorted(splits)}; val_fraction {draw.val} and test_fraction '
            f'{draw.test} of its {len(train)} training images leave nothing for train or val'
        )
    out = dict(splits, train=select('train', train, np.arange(left)))
    if val:
        out['val'] = select('val', train, np.arange(left, left + val))
    if test:
        out['test'] = select('test', train, np.arange(left + val, len(train)))
    return {key: replace(one, name=key) for key, one in out.items()}
