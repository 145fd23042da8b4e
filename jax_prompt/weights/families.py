"""The families of backbones as their weights are read."""

from collections.abc import Mapping

from jax_prompt.weights import convnext, resnet, swin, vit_facts
from jax_prompt.weights.family import WeightsFamily

FAMILIES: Mapping[str, WeightsFamily] = {
    'vit': vit_facts.FAMILY,
    'swin': swin.FAMILY,
    'resnet': resnet.FAMILY,
    'convnext': convnext.FAMILY,
}
# All formats that there are, by name, for help texts.
FORMATS = tuple(dict.fromkeys(name for family in FAMILIES.values() for name in family.formats))
