"""What the builders share: their description for TFDS, their splits, their files."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds


def describe(
    builder: tfds.core.DatasetBuilder, description: str, size: int, names: Sequence[str]
) -> tfds.core.DatasetInfo:
    """Returns the info of images [size, size, 3], stored as PNG, with one label each."""
    features = {
        'image': tfds.features.Image(shape=(size, size, 3), encoding_format='png'),
        'label': tfds.features.ClassLabel(names=list(names)),
    }
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict(features),
        supervised_keys=('image', 'label'),
    )


def consecutive(counts: Mapping[str, int]) -> dict[str, range]:
    """Returns the numbers of each split's images: one split after the other, from 0."""
    stops = np.cumsum(list(counts.values())).tolist()
    return {
        name: range(stop - counts[name], stop) for name, stop in zip(counts, stops, strict=True)
    }


def as_png(image: np.ndarray) -> io.BytesIO:
    """Returns an image [H, W, 3] uint8 as a PNG file, at its start."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, 'PNG')
    file.seek(0)
    return file
