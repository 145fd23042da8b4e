"""FGVC: five fine-grained tasks.

The splits of Visual Prompt Tuning (Jia et al. 2022, arXiv:2203.12119): where a set has no
validation split, its training split gives 90 % to train and the rest to val. The README of its code
links to lists of these images: train.json, val.json and test.json of each task. Where they lie with
the images in DATA_DIR/fgvc/NAME, they are read (`lists.py`). Without them, val is a stratified draw
of seed 0. Sizes: Table S1 of arXiv:2402.02382. Results are top-1 accuracies of the run that trained
on train.

Images: the shorter side to 256 (bilinear, antialiased), then 224 from the centre; in training a
random window and random mirroring. The released code draws that window from the whole resized
image, here it comes from its central square.
"""

from jax_prompt.core.colour import IMAGENET_MEAN, IMAGENET_STD
from jax_prompt.data.labels import stored
from jax_prompt.data.task import Part, Rule, Sizes, Task, View

VIEW = View(
    resize='bilinear',
    crop='centre',
    train_crop='random',
    flip=True,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)

_TRAIN, _TEST = (Part('train'),), (Part('test'),)
_DRAWN = Rule(stored(), _TRAIN, _TEST)
_NABIRDS = (
    "register at Cornell's NABirds page, download nabirds.tar.gz and unpack it as DATA_DIR/nabirds"
)


def _task(
    name: str, data: str, num_classes: int, sizes: Sizes, rule: Rule | None, note: str, **facts: str
) -> Task:
    return Task(
        f'fgvc/{name}', data, num_classes, sizes, note, group='FGVC', rule=rule, view=VIEW, **facts
    )


# fmt: off
TASKS = (
    _task('cub', 'tfds:caltech_birds2011', 200, Sizes(5394, 600, 5794), _DRAWN,
          'CUB-200-2011: species of birds', licence='non-commercial'),
    _task('nabirds', 'listed:nabirds', 555, Sizes(21536, 2393, 24633), None,
          'NABirds: species of birds', licence='non-commercial', manual=_NABIRDS),
    _task('oxford_flowers', 'tfds:oxford_flowers102', 102, Sizes(1020, 1020, 6149),
          Rule(stored(), _TRAIN, _TEST, val=(Part('validation'),)), 'species of flowers',
          licence='see its site'),
    _task('stanford_dogs', 'tfds:stanford_dogs', 120, Sizes(10800, 1200, 8580), _DRAWN,
          'breeds of dogs', licence='see its site'),
    _task('stanford_cars', 'tfds:cars196', 196, Sizes(7329, 815, 8041), _DRAWN,
          'makes and models of cars', licence='non-commercial'),
)
# fmt: on
