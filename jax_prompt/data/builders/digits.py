"""Handwritten digits as a TFDS builder: the set that scikit-learn carries, enlarged to 32 px.

1,797 images of 8x8 pixels with 17 grey levels (the test part of the UCI set 'Optical Recognition of
Handwritten Digits'). The split is the project's own: stratified, 800 train, 200 validation, 797
test images. The writers are not told apart in the data, so they appear in every part.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from jax_prompt.data.builders.parts import as_png, describe
from jax_prompt.data.draws import stratified_split

SIZE = 32
COUNTS = {'train': 800, 'validation': 200, 'test': 797}
_SEED = 0


class JaxPromptDigits(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits of 32x32 pixels, ten classes."""

    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES: ClassVar[dict] = {'1.0.0': 'First.'}
    name = 'jax_prompt_digits'
    url_infos: ClassVar[dict] = {}  # nothing is downloaded

    def _info(self) -> tfds.core.DatasetInfo:
        text = 'Handwritten digits that scikit-learn carries, enlarged to 32 px.'
        return describe(self, text, SIZE, [str(digit) for digit in range(10)])

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError(
                "data 'digits' is made from scikit-learn: pip install 'jax-prompt[quickstart]'"
            ) from error
        digits = load_digits()
        images, labels = digits.images, digits.target
        rest, test = stratified_split(labels, COUNTS['test'] / len(labels), _SEED)
        train, val = stratified_split(labels[rest], COUNTS['validation'] / len(rest), _SEED)
        parts = {'train': rest[train], 'validation': rest[val], 'test': test}
        return {name: self._generate_examples(images, labels, parts[name]) for name in parts}

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray, index: np.ndarray
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for i in index:
            yield f'{i:04d}', {'image': as_png(_enlarged(images[i])), 'label': int(labels[i])}


def _enlarged(image: np.ndarray) -> np.ndarray:
    """Returns a digit [8, 8] in 0..16 as [32, 32, 3] uint8, bilinearly enlarged."""
    from PIL import Image

    grey = np.rint(image * (255 / 16)).astype(np.uint8)
    large = Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(large.convert('RGB'))
