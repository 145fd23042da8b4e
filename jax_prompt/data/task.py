"""What a named task is: where its images lie, which are whose, what their labels are.

A row of a table holds facts alone, quoted from the protocol that it belongs to; `open_source` in
`open.py` is the one place that acts on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from jax_prompt.data.labels import LabelRule


class Sizes(NamedTuple):
    """Examples of each split."""

    train: int
    val: int
    test: int


@dataclass(frozen=True)
class Part:
    """Consecutive examples of a stored split, in their stored order.

    Attributes:
      split: name of the stored split.
      start: where the part starts, in per cent of the split, rounded down.
      stop: where it stops, likewise.
      count: how many examples it has; None: all up to `stop`.
    """

    split: str
    start: int = 0
    stop: int = 100
    count: int | None = None

    def span(self, num_examples: Mapping[str, int]) -> range:
        """Returns the indices of the part.

        Args:
          num_examples: examples of the stored splits.

        Raises:
          ValueError: the split is missing or too small.
        """
        if self.split not in num_examples:
            raise ValueError(f'there is no split {self.split!r}; there are {sorted(num_examples)}')
        size = num_examples[self.split]
        start, stop = self.start * size // 100, self.stop * size // 100
        if self.count is not None and start + self.count > stop:
            raise ValueError(
                f'split {self.split!r} has {size} examples; the task takes {self.count} from '
                f'number {start} on'
            )
        return range(start, stop if self.count is None else start + self.count)


@dataclass(frozen=True)
class Rule:
    """How examples of a TFDS builder become a task.

    Attributes:
      label: gives an example's class.
      train: where the training examples lie, in this order.
      test: likewise.
      val: likewise; (): drawn from train.
      val_percent: share of train that is drawn, stratified, where `val` is (); train keeps
        (100 - val_percent) % rounded down.
      val_seed: of that draw.
      image: the feature that holds the image.
      scale: factor of stored pixel values, for images stored as 0 and 1.
      classes: names of the classes that are kept; (): all.
    """

    label: LabelRule
    train: tuple[Part, ...]
    test: tuple[Part, ...]
    val: tuple[Part, ...] = ()
    val_percent: int = 10
    val_seed: int = 0
    image: str = 'image'
    scale: int = 1
    classes: tuple[str, ...] = ()

    def parts(self) -> dict[str, tuple[Part, ...]]:
        """Returns the parts of train, test and, where it is not drawn, val."""
        named = {'train': self.train, 'val': self.val, 'test': self.test}
        return {name: parts for name, parts in named.items() if parts}


@dataclass(frozen=True)
class View:
    """How a protocol shows images to the network; the values of `Input`, `Augment` and `Model`.

    Attributes:
      resize: interpolation, see `transforms.resize_image`.
      crop: 'squash' or 'centre', see `transforms.prepare_image`.
      crop_ratio: for 'centre': image size over resized shorter side.
      train_crop: `Augment.crop` of training images.
      flip: whether half of the training images are mirrored.
      mean: normalisation of images in [0, 1]; (): the weights' own.
      std: likewise.
    """

    resize: str
    crop: str
    crop_ratio: float = 0.875
    train_crop: str = 'none'
    flip: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class Task:
    """A named task.

    Attributes:
      name: its name.
      data: what its images are, for `open.open_source`.
      num_classes: K.
      sizes: examples of train, val and test; None: not fixed by the protocol.
      note: what it is.
      group: the benchmark or the part of it that the task is reported under.
      rule: how the stored examples become the task; None: as `data` is.
      view: how its protocol shows the images; None: none given.
      metric: 'top1', the share of right predictions over the whole test split.
      licence: what its owners allow, or where they say so.
      manual: what has to be fetched by hand, and where from; '': nothing.
    """

    name: str
    data: str
    num_classes: int
    sizes: tuple[int, int, int] | None
    note: str
    group: str = ''
    rule: Rule | None = None
    view: View | None = None
    metric: str = 'top1'
    licence: str = ''
    manual: str = ''
