"""What a tuner states of itself, and its parameters by stage."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import pytest

from jax_prompt.backbones.swin_config import SwinConfig
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.facts import Facts
from jax_prompt.core.spec import FEATURES, IMAGE, Cut
from jax_prompt.core.staged import per_stage, segment
from jax_prompt.core.tuner import Tuner, adds_nothing
from jax_prompt.methods import METHODS, get_method
from jax_prompt.model import build_classifier
from jax_prompt.runs.export import merges
from jax_prompt.tuners.compose import Compose

VIT = ViTConfig(8, 3, 2, 16, 4, 8)
SWIN = SwinConfig(8, (1, 2), (1, 2), 2, 4, 16)


@dataclass(frozen=True)
class Plain(Tuner):
    """Prompts at each layer, made without a thought of stages."""

    def facts(self, spec):
        layers = range(spec.num_layers)
        return replace(super().facts(spec), cut=Cut(0), prompt_layers=layers, prompt_length=1)

    def init(self, key, spec):
        return {'layers': {'prompts': jnp.zeros((spec.num_layers, 1, spec.width))}}

    def prompts(self, place, tokens):
        return place.params['prompts'][None]


def test_parameters_without_stages_are_refused_where_layers_differ_by_stage():
    model = replace(build_classifier(SWIN, METHODS['linear'], 2), tuner=Plain())
    params = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    with pytest.raises(ValueError, match=r"\['prompts'\]; the layers of a swin differ .*per_stage"):
        jax.eval_shape(model.apply, params, images)


def test_a_stage_without_leaves_has_no_parameters():
    def make(key, stage):
        return {'scale': jnp.full((stage.num_layers,), stage.width)}

    spec = SWIN.spec()
    layers, facts = per_stage(jax.random.key(0), spec, make), Tuner().facts(spec)
    assert segment(layers, (2, 3), facts, spec)['scale'].tolist() == [16]
    del layers['stage_00']  # empty subtrees vanish where a tree is split and merged
    assert segment(layers, (0, 1), facts, spec) == {}


def test_an_end_of_the_layers_within_a_segment_is_refused():
    spec = VIT.spec()
    facts = replace(Tuner().facts(spec), layers=range(1, 3))
    with pytest.raises(ValueError, match=r'cross; .*seams=\(1, 3\)'):
        segment({'scale': jnp.ones(2)}, (0, 2), facts, spec)
    assert segment({'scale': jnp.ones(2)}, (0, 1), facts, spec) == {}


def test_facts_of_several_tuners_are_merged():
    spec = SWIN.spec()
    options = {'vpt_deep': {'faithful': True}, 'lora': {'first_layer': 2}}
    facts = get_method('vpt_deep+lora').make_tuner(**options).facts(spec)
    prompts, lora = (own for _, own in facts.parts)
    assert (facts.cut, lora.cut) == (Cut(0), Cut(2))
    assert (facts.prompt_layers, facts.prompt_length) == (range(3), prompts.prompt_length)
    assert facts.mixes_images and not lora.mixes_images
    assert facts.seams == (0, 2, 3) and lora.seams == (2, 3)
    wide = get_method('mp+lora').make_tuner().facts(spec)
    assert wide.needs_tokens and wide.feature_dim == spec.feature_dim + 64**2 // 4
    assert wide.seams == (0, 3)  # the cut of a part is no seam


def test_a_combination_can_be_a_part_of_another():
    inner = get_method('mp+lora').make_tuner()
    facts = Compose((('tuner', inner), ('beside', Tuner()))).facts(VIT.spec())
    assert facts.needs_tokens and facts.cut == Cut(0) and facts.seams == (0, 3)


def test_of_a_tuner_that_states_nothing_nothing_is_assumed():
    assert Tuner().facts(VIT.spec()).cut == FEATURES

    class Silent(Tuner):
        pass

    facts = Silent().facts(VIT.spec())
    assert facts == Facts(8, range(3), IMAGE, mask_obstacle='Silent does not mask prompts')


def test_what_can_be_merged_into_weights_is_known():
    assert [name for name, row in METHODS.items() if merges(row.tuner)] == [
        *('linear', 'full', 'retrain', 'partial', 'bias', 'lora', 'ssf')
    ]
    assert not adds_nothing(METHODS['lora'].tuner)
