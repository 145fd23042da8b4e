"""VTAB-1k: 19 tasks of 1,000 training images each.

Visual Task Adaptation Benchmark (Zhai et al. 2019, arXiv:1910.04867), with the splits 'train800',
'val200' and 'test' of Visual Prompt Tuning (Jia et al. 2022, arXiv:2203.12119): hyperparameters are
chosen on train800 and val200, the result is trained on both and tested once on the whole test
split. All results are top-1 accuracies. Class counts and split sizes: Table S1 of Revisiting the
Power of Prompt for Visual Tuning (arXiv:2402.02382).

Images are resized to the square bilinearly without antialias and normalised by ImageNet's mean and
standard deviation, whatever the backbone, as Visual Prompt Tuning's released code does it.
"""

from jax_prompt.core.colour import IMAGENET_MEAN, IMAGENET_STD
from jax_prompt.data.labels import (
    LabelRule,
    grouped,
    nearest_object,
    nearest_vehicle,
    num_objects,
    stored,
)
from jax_prompt.data.task import Part, Rule, Sizes, Task, View

VIEW = View(resize='bilinear_tf', crop='squash', mean=IMAGENET_MEAN, std=IMAGENET_STD)

_RESISC = "download NWPU-RESISC45.rar from the authors' page; unpack it in MANUAL"
_RETINOPATHY = (
    "accept the rules of Kaggle's competition 'diabetic-retinopathy-detection'; unpack its images "
    'as MANUAL/train, MANUAL/test and MANUAL/sample, and trainLabels.csv in MANUAL'
)


def _rule(
    label: LabelRule,
    val: Part | None = None,
    test: Part | None = None,
    scale: int = 1,
) -> Rule:
    return Rule(
        label=label,
        train=(Part('train', count=800),),
        val=(val or Part('validation', count=200),),
        test=(test or Part('test'),),
        scale=scale,
    )


def _late(start: int) -> Part:
    """Returns the 200 validation images that start at a share of train."""
    return Part('train', start, count=200)


def _clevr(label: LabelRule) -> Rule:
    return _rule(label, _late(90), Part('validation'))


def _dsprites(key: str, values: int) -> Rule:
    return _rule(grouped(key, values, 16), _late(80), Part('train', 90), scale=255)


def _norb(key: str) -> Rule:
    return _rule(stored(key), Part('test', count=200), Part('test', 50))


def _task(
    name: str,
    builder: str,
    num_classes: int,
    test: int,
    group: str,
    rule: Rule,
    note: str,
    licence: str,
    manual: str = '',
) -> Task:
    return Task(
        name=f'vtab/{name}',
        data=f'tfds:{builder}',
        num_classes=num_classes,
        sizes=Sizes(800, 200, test),
        note=note,
        group=group,
        rule=rule,
        view=VIEW,
        licence=licence,
        manual=manual,
    )


# fmt: off
NATURAL = (
    _task('caltech101', 'caltech101', 102, 6084, 'Natural', _rule(stored(), _late(90)),
          'photographs of 101 kinds of objects, and background', 'CC BY 4.0'),
    _task('cifar100', 'cifar100', 100, 10000, 'Natural', _rule(stored(), _late(90)),
          '100 kinds of small pictures, 32 px', 'see its site'),
    _task('dtd', 'dtd', 47, 1880, 'Natural', _rule(stored()),
          'textures, the first of the ten official splits', 'research only'),
    _task('oxford_flowers102', 'oxford_flowers102', 102, 6149, 'Natural', _rule(stored()),
          'species of flowers', 'see its site'),
    _task('oxford_iiit_pet', 'oxford_iiit_pet', 37, 3669, 'Natural', _rule(stored(), _late(80)),
          'breeds of cats and dogs', 'CC BY-SA 4.0'),
    _task('svhn_cropped', 'svhn_cropped', 10, 26032, 'Natural', _rule(stored(), _late(90)),
          'house numbers, 32 px', 'non-commercial'),
    _task('sun397', 'sun397/tfds', 397, 21750, 'Natural', _rule(stored()),
          'scenes', 'see its site'),
)
SPECIALIZED = (
    _task('patch_camelyon', 'patch_camelyon', 2, 32768, 'Specialized', _rule(stored()),
          'patches of lymph nodes, 96 px', 'CC0'),
    _task('eurosat', 'eurosat/rgb', 10, 5400, 'Specialized',
          _rule(stored(), _late(60), Part('train', 80)), 'land use from space, 64 px',
          'see its site'),
    _task('resisc45', 'resisc45', 45, 6300, 'Specialized',
          _rule(stored(), _late(60), Part('train', 80)), 'land use from the air', 'see its site',
          _RESISC),
    _task('diabetic_retinopathy', 'diabetic_retinopathy_detection/btgraham-300', 5, 42670,
          'Specialized', _rule(stored()), 'degree of a disease of the retina',
          "the competition's rules", _RETINOPATHY),
)
STRUCTURED = (
    _task('clevr_count', 'clevr', 8, 15000, 'Structured', _clevr(num_objects()),
          'how many objects a rendered scene shows', 'CC BY 4.0'),
    _task('clevr_distance', 'clevr', 6, 15000, 'Structured', _clevr(nearest_object()),
          'how far the nearest object is', 'CC BY 4.0'),
    _task('dmlab', 'dmlab', 6, 22735, 'Structured', _rule(stored()),
          'how far objects in a maze are', 'see its site'),
    _task('kitti_distance', 'kitti', 4, 711, 'Structured', _rule(nearest_vehicle()),
          'how far the nearest vehicle is', 'CC BY-NC-SA 3.0'),
    _task('dsprites_location', 'dsprites', 16, 73728, 'Structured',
          _dsprites('label_x_position', 32), 'where a shape lies, across',
          'Apache-2.0'),
    _task('dsprites_orientation', 'dsprites', 16, 73728, 'Structured',
          _dsprites('label_orientation', 40), 'how a shape is turned',
          'Apache-2.0'),
    _task('smallnorb_azimuth', 'smallnorb', 18, 12150, 'Structured',
          _norb('label_azimuth'), 'from which side a toy is seen', 'see its site'),
    _task('smallnorb_elevation', 'smallnorb', 9, 12150, 'Structured',
          _norb('label_elevation'), 'from which height a toy is seen',
          'see its site'),
)
# fmt: on
TASKS = (*NATURAL, *SPECIALIZED, *STRUCTURED)
