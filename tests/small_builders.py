"""Small TFDS builders with the features of real ones, prepared without TensorFlow."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def prepare_small(
    name: str,
    counts: dict[str, int],
    data_dir: Path,
    shards: int = 3,
    fill=None,
    file_format: str = 'array_record',
) -> Path:
    """Prepares a set that looks like a real builder's, and returns its folder.

    Args:
      name: of the real builder, 'eurosat/rgb'; its features, version and names of classes are used.
      counts: examples of each split.
      data_dir: where to prepare.
      shards: files a split.
      fill: gives features of example i of a split, (split, i) -> dict; others are made up.
      file_format: as TFDS names it; 'tfrecord' needs TensorFlow.
    """
    import tensorflow_datasets as tfds

    real = tfds.builder(name, data_dir=data_dir / 'none')
    features, version = real.info.features, str(real.version)
    title, _, config = name.partition('/')

    class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config, version=version)] if config else []
        url_infos = {}  # noqa: RUF012

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in counts}

        def _generate_examples(self, split):
            for i in range(counts[split]):
                example = {key: _made_up(one, i) for key, one in features.items()}
                yield i, example | (fill(split, i) if fill else {})

    Small.name = title
    builder = Small(data_dir=data_dir, file_format=file_format)
    options = tfds.download.DownloadConfig(num_shards=shards, try_download_gcs=False)
    tfds.disable_progress_bar()
    builder.download_and_prepare(download_config=options)
    return Path(builder.data_dir)


def png(shape: tuple, i: int, high: int = 256) -> io.BytesIO:
    """Returns a pattern of its own as a PNG file, grey where the shape has one channel."""
    height, width, channels = (size or 8 for size in shape)
    noise = np.random.RandomState(i).randint(0, high, (8, 8, channels)).astype(np.uint8)
    pixels = np.tile(noise, (height // 8 + 1, width // 8 + 1, 1))[:height, :width]
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, 'PNG')
    file.seek(0)
    return file


def features_of_task(builder: str):
    """Returns `fill` for builders whose labels stand in objects or pixels are 0 and 1, or None."""
    import tensorflow_datasets as tfds

    box = tfds.features.BBox(0.0, 0.0, 0.5, 0.5)
    zero, zeros = np.float32(0), np.zeros(3, np.float32)
    unused = {'color': 0, 'material': 0, 'shape': 0, 'rotation': zero, '3d_coords': zeros}
    unread = {'truncated': zero, 'occluded': 0, 'alpha': zero, 'bbox': box, 'dimensions': zeros}

    def clevr(split, i):
        rng = np.random.RandomState(i)
        depths = rng.uniform(7, 14, 3 + i % 8)
        places = [np.array([1, 2, z], np.float32) for z in depths]
        return {'objects': [unused | {'size': i % 2, 'pixel_coords': one} for one in places]}

    def kitti(split, i):
        rng = np.random.RandomState(i)
        objects = [
            unread | {'type': int(rng.randint(8)), 'location': np.array([99, -99, z], np.float32)}
            for z in rng.uniform(2, 40, i % 5)
        ]
        return {'objects': [one | {'rotation_y': zero} for one in objects]}

    def dsprites(split, i):
        labels = {'label_x_position': i % 32, 'label_orientation': i * 3 % 40}
        return labels | {'image': png((64, 64, 1), i, high=2)}

    return {'clevr': clevr, 'kitti': kitti, 'dsprites': dsprites}.get(builder)


def _made_up(feature, i: int):
    """Returns a value that a feature accepts."""
    import tensorflow_datasets as tfds

    kinds = tfds.features
    if isinstance(feature, kinds.Image):
        return png((*(feature.shape[:2]), feature.shape[2] or 3), i)
    if isinstance(feature, kinds.ClassLabel):
        return i * 7 % feature.num_classes
    if isinstance(feature, kinds.Text):
        return f'text {i}'
    if isinstance(feature, kinds.BBoxFeature):
        return kinds.BBox(0.0, 0.0, 0.5, 0.5)
    if isinstance(feature, kinds.Sequence):
        return []
    return np.zeros(feature.shape, feature.np_dtype)
