"""Every method's programs lower for GPUs and for TPUs, whichever device is here."""

import jax
import pytest

from jax_prompt.backbones.convnext_config import ConvNeXtConfig
from jax_prompt.backbones.resnet_config import ResNetConfig
from jax_prompt.backbones.swin_config import SwinConfig
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.methods import METHODS
from jax_prompt.runs.backbone import LoadedBackbone
from jax_prompt.runs.config import resolve
from jax_prompt.runs.plan import Shapes, Size
from jax_prompt.runs.program import build_program
from jax_prompt.train.program import make_logits
from jax_prompt.train.step import make_step

SIZE = Size(3, 32)
# By a row of the table of backbones, a small network of its family.
SMALL = {
    'vit_micro': ViTConfig(16, 2, 2, 32, 4, 16, dtype='bfloat16'),
    'swin_micro': SwinConfig(8, (1, 1), (1, 2), 2, 4, 16, dtype='bfloat16'),
    'resnet_micro': ResNetConfig('bottleneck', (2,), 16, width=4, dtype='bfloat16'),
    'convnext_t_224': ConvNeXtConfig(8, (2,), 16, dtype='bfloat16'),
}
# Its kernels are large enough to be split.
WIDE = ViTConfig(128, 3, 2, 256, 4, 16, dtype='bfloat16')
PLATFORMS = ('cuda', 'tpu')
# These methods act at sites of their own, so one program holds several.
ANYWHERE = ('full', 'partial', 'lion', 'vpt_channels+lora+ssf+adapter+snf', 'vpt_pad+bias')
AMONG_TOKENS = ('vpt_deep', 'dvpt_deep', 'gated_vpt', 'e2vpt')
# From stored features on, no backbone is in the program, so that one family stands for all.
ON_FEATURES = ('linear', 'mlp', 'mp', 'sidetune')
# Their programs are those of other rows: they differ in the values that they start from, or hold
# a part of them.
ALIKE = {'retrain', 'spt_deep', 'dvpt_spt', 'vpt_shallow', 'spt_shallow', 'dvpt_shallow'}
PROGRAMS = [
    *(('vit_micro', method) for method in (*ANYWHERE, *AMONG_TOKENS, *ON_FEATURES)),
    *(('swin_micro', method) for method in (*ANYWHERE, *AMONG_TOKENS)),
    *(('resnet_micro', method) for method in ANYWHERE),
    *(('convnext_t_224', method) for method in ANYWHERE),
]


def shapes_for(name, method, devices=None, **changes):
    """Returns the shapes of a small run's programs, by default on one device that is here."""
    row = name if name in SMALL else 'vit_micro'
    base = {'data': 'digits', 'backbone': row, 'method': method, 'batch_size': 8}
    base |= {'search': False, 'num_prompts': 2, 'engine': {'num_devices': 1}}
    config = resolve({**base, 'model': {'dtype': 'bfloat16'}, **changes})
    network = SMALL.get(name, WIDE)
    backbone = LoadedBackbone(network, None, None, (0.5,) * 3, (0.5,) * 3, {})
    program = build_program(config, backbone, *SIZE, devices)
    return Shapes(config, program, (devices or jax.devices())[0], SIZE, backbone)


@pytest.mark.parametrize(('name', 'method'), PROGRAMS)
def test_a_step_lowers(name, method):
    shapes = shapes_for(name, method)
    text = make_step.trace(*shapes.step()).lower(lowering_platforms=PLATFORMS).as_text()
    assert text.count('stablehlo.') > 20
    assert 'bf16' in text or method in ON_FEATURES or not shapes.program.start.at_image


def test_every_method_is_lowered():
    named = {part for _, method in PROGRAMS for part in method.split('+')}
    assert named | ALIKE == METHODS.keys()


@pytest.mark.parametrize('name', SMALL)
def test_evaluation_lowers(name):
    args = shapes_for(name, 'lora', engine={'num_devices': 8}).logits()
    text = make_logits.trace(*args).lower(lowering_platforms=PLATFORMS).as_text()
    assert 'mhlo.num_partitions = 8' in text and 'bf16' in text


def test_rows_that_are_left_out_have_the_programs_of_others():
    for one, other in (('retrain', 'full'), ('spt_deep', 'vpt_deep'), ('dvpt_spt', 'dvpt_deep')):
        first, second = (shapes_for('vit_micro', row).step() for row in (one, other))
        assert first == second
