"""Whole sets: those of LION's tables, of few-shot and long-tailed subsets, and two large ones.

LION (Wang et al., AAAI 2024) trains on whole sets without naming a validation split; here 10 % of
train is drawn, stratified, by seed 0 (1 % of the two large sets). How it shows images is not stated
either, so these rows give no view.

Which images and classes LION meant is stated in no place for three of its sets: ImageNet-100 is
taken as the 100 classes of Contrastive Multiview Coding (Tian et al. 2020, arXiv:1906.05849);
'Flower', of five species and 4,242 images, is Kaggle's 'flowers-recognition', cut into 70, 10 and
20 %; 'Clothing' is Clothing1M (Xiao et al. 2015), whose owners send it on request.
"""

from jax_prompt.data.imagenet100 import SYNSETS
from jax_prompt.data.labels import stored
from jax_prompt.data.task import Part, Rule, Sizes, Task

_TRAIN, _TEST, _VALIDATION = (Part('train'),), (Part('test'),), (Part('validation'),)
_DRAWN = Rule(stored(), _TRAIN, _TEST)
_FLOWERS = (
    "Kaggle's 'alxmamaev/flowers-recognition', unpacked as DATA_DIR/flowers5: one folder a species"
)
_CLOTHING = (
    'ask its owners for Clothing1M; DATA_DIR/clothing: train, val and test folders, each with one '
    'folder a class'
)
_IMAGENET = (
    'register at image-net.org; put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar in MANUAL'
)
_LT = 'long tail: {} times as many training images of the first class as of the last'

# fmt: off
TASKS = (
    Task('cifar10', 'tfds:cifar10', 10, Sizes(45000, 5000, 10000), 'ten kinds of objects, 32 px',
         rule=_DRAWN, licence='see its site'),
    Task('cifar100', 'tfds:cifar100', 100, Sizes(45000, 5000, 10000),
         '100 kinds of objects, 32 px', rule=_DRAWN, licence='see its site'),
    Task('imagenet100', 'tfds:imagenet2012', 100, None, '100 of the classes of ImageNet-1k',
         rule=Rule(stored(), _TRAIN, _VALIDATION, classes=SYNSETS),
         licence='research only', manual=_IMAGENET),
    Task('flowers5', 'folder:flowers5', 5, None, 'five species of flowers', licence='see its site',
         manual=_FLOWERS),
    Task('dogs', 'fgvc/stanford_dogs', 120, Sizes(10800, 1200, 8580), 'breeds of dogs',
         licence='see its site'),
    Task('cars', 'fgvc/stanford_cars', 196, Sizes(7329, 815, 8041), 'makes and models of cars',
         licence='non-commercial'),
    Task('clothing', 'folder:clothing', 14, None, 'kinds of clothes, noisy labels',
         licence='research only, on request', manual=_CLOTHING),
    Task('oxford_iiit_pet', 'tfds:oxford_iiit_pet', 37, Sizes(3312, 368, 3669),
         'breeds of cats and dogs', rule=_DRAWN, licence='CC BY-SA 4.0'),
    Task('food101', 'tfds:food101', 101, Sizes(68175, 7575, 25250), 'dishes',
         rule=Rule(stored(), _TRAIN, _VALIDATION), licence='non-commercial'),
    Task('oxford_flowers102', 'fgvc/oxford_flowers', 102, Sizes(1020, 1020, 6149),
         'species of flowers', licence='see its site'),
    Task('cifar10_lt50', 'longtail50/cifar10', 10, None, _LT.format(50), licence='see its site'),
    Task('cifar10_lt100', 'longtail100/cifar10', 10, None, _LT.format(100),
         licence='see its site'),
    Task('cifar100_lt50', 'longtail50/cifar100', 100, None, _LT.format(50),
         licence='see its site'),
    Task('cifar100_lt100', 'longtail100/cifar100', 100, None, _LT.format(100),
         licence='see its site'),
    Task('imagenet1k', 'tfds:imagenet2012', 1000, Sizes(1268355, 12812, 50000),
         'ImageNet-1k; its validation split is the test', licence='research only',
         rule=Rule(stored(), _TRAIN, _VALIDATION, val_percent=1), manual=_IMAGENET),
    Task('inaturalist2018', 'tfds:i_naturalist2018', 8142, Sizes(433137, 4376, 24426),
         'species, long-tailed; its validation split is the test', licence='non-commercial',
         rule=Rule(stored(), _TRAIN, _VALIDATION, val_percent=1)),
)
# fmt: on
