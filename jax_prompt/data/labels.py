"""Label rules: the class of a stored example, a pure function of its features.

Every rule names the features that it reads, so that images and other features of an example are not
decoded for its label. Values come as TFDS gives them without TensorFlow: a sequence of features is
a dict of lists, empty lists where there are no objects.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

# Bounds of Visual Task Adaptation Benchmark (Zhai et al. 2019, arXiv:1910.04867), as its released
# code has them: an example's class is the largest index whose bound lies below its value.
OBJECT_BOUNDS = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
VEHICLE_BOUNDS = (-100.0, 8.0, 20.0, 999.0)
NO_VEHICLE = 1000.0  # metres, beyond the last bound
_VEHICLES = 3  # KITTI's types 0, 1, 2: car, van, truck
_FEWEST = 3  # CLEVR shows 3 to 10 objects


@dataclass(frozen=True)
class LabelRule:
    """What an example's class is.

    Attributes:
      name: says so in a few words; part of what identifies a task's data.
      keys: the features that it reads.
      read: from these features to the class.
      classes: names of the classes; (): those of the feature keys[0].
    """

    name: str
    keys: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], int]
    classes: tuple[str, ...] = ()


def stored(key: str = 'label') -> LabelRule:
    """Returns the rule of a class that is stored as such."""
    return LabelRule(key, (key,), partial(_stored, key=key))


def grouped(key: str, values: int, num_classes: int) -> LabelRule:
    """Returns the rule that joins neighbouring values of a stored class.

    Args:
      key: the feature.
      values: how many values it has, n.
      num_classes: K; value v belongs to class floor(v / (n / K)).
    """
    read = partial(_grouped, key=key, width=values / num_classes)
    names = tuple(str(one) for one in range(num_classes))
    return LabelRule(f'{key} of {values} in {num_classes}', (key,), read, names)


def num_objects() -> LabelRule:
    """Returns the rule of CLEVR's count: 3 to 10 objects are classes 0 to 7."""
    names = tuple(str(one) for one in range(_FEWEST, 11))
    return LabelRule('number of objects', ('objects',), _num_objects, names)


def nearest_object() -> LabelRule:
    """Returns the rule of CLEVR's distance: the smallest depth of an object, in 6 classes."""
    return LabelRule('nearest object', ('objects',), _nearest_object, _between(OBJECT_BOUNDS))


def nearest_vehicle() -> LabelRule:
    """Returns the rule of KITTI's distance: the nearest car, van or truck, or none, 4 classes."""
    names = (*_between(VEHICLE_BOUNDS), 'none')
    return LabelRule('nearest vehicle', ('objects',), _nearest_vehicle, names)


def bin_of(value: float, bounds: tuple[float, ...]) -> int:
    """Returns the largest index whose bound is below the value.

    Raises:
      ValueError: no bound is.
    """
    below = np.flatnonzero(np.asarray(bounds) < value)
    if not len(below):
        raise ValueError(f'{value} lies below all of {bounds}')
    return int(below[-1])


def _between(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(f'{a:g} to {b:g}' for a, b in pairwise(bounds))


def _stored(example: Mapping[str, Any], key: str) -> int:
    return int(example[key])


def _grouped(example: Mapping[str, Any], key: str, width: float) -> int:
    return int(np.float32(example[key]) // np.float32(width))


def _num_objects(example: Mapping[str, Any]) -> int:
    return len(example['objects']['size']) - _FEWEST


def _nearest_object(example: Mapping[str, Any]) -> int:
    # The third coordinate of an object's place in the image is its distance from the camera.
    coordinates = np.asarray(example['objects']['pixel_coords'], np.float32).reshape(-1, 3)
    return bin_of(float(coordinates[:, 2].min()), OBJECT_BOUNDS)


def _nearest_vehicle(example: Mapping[str, Any]) -> int:
    kinds = np.asarray(example['objects']['type'], np.int64)
    places = np.asarray(example['objects']['location'], np.float32).reshape(-1, 3)  # x, y, z in m
    depths = places[kinds < _VEHICLES, 2]
    return bin_of(min(depths.min(initial=np.inf), NO_VEHICLE), VEHICLE_BOUNDS)
