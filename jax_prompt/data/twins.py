"""The same image in two splits: what was trained on is no test."""

import hashlib
from collections.abc import Mapping
from itertools import combinations

import numpy as np

from jax_prompt.data.source import Split

_ORDER = ('train', 'val', 'test')


def shared_images(splits: Mapping[str, Split], images: Mapping[str, np.ndarray]) -> list[str]:
    """Says which pairs of splits share images: how many, and the first.

    Images are compared as they are stored, decoded and resized, so that a file saved anew in the
    same pixels counts too.

    Args:
      splits: by name, of train, val and test.
      images: of each, [n, S, S, 3] uint8.
    """
    places = {name: _places(array) for name, array in images.items()}
    out = []
    for first, second in combinations(sorted(places, key=_ORDER.index), 2):
        both = [i for key, i in places[second].items() if key in places[first]]
        if both:
            count = sum(_digest(image) in places[first] for image in images[second])
            here = splits[second].where(both[0])
            there = splits[first].where(places[first][_digest(images[second][both[0]])])
            out.append(
                f'{count} of the {len(images[second])} images of {second} are in {first} too, '
                f'pixel by pixel; the first: {here} = {there}'
            )
    return out


def _places(images: np.ndarray) -> dict[bytes, int]:
    """Returns the first place of each different image."""
    places: dict[bytes, int] = {}
    for i, image in enumerate(images):
        places.setdefault(_digest(image), i)
    return places


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
