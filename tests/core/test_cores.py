"""The number of cores that a result depends on: NPROC decides, for XLA and for this package."""

import os

import pytest

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.devices import num_cores
from jax_prompt.methods import METHODS
from jax_prompt.train.memory import plan_step


@pytest.mark.parametrize(
    ('asked', 'got'), [('3', 3), ('64', 64), ('', None), ('0', None), ('x', None)]
)
def test_nproc_stands_for_the_cores(monkeypatch, asked, got):
    monkeypatch.delenv('NPROC', raising=False)
    real = num_cores()
    assert real >= 1
    monkeypatch.setenv('NPROC', asked)
    assert num_cores() == (got or real)


def test_the_parts_of_a_batch_follow_it(monkeypatch):
    spec = ViTConfig(192, 12, 3, 768, 16, 224).spec()
    tuner = METHODS['vpt_deep'].make_tuner(num_prompts=10)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(32)), raising=False)
    plans = []
    for number in ('1', '4'):
        monkeypatch.setenv('NPROC', number)
        plans.append(plan_step(spec, tuner, 32).micro_batch)
    assert plans == [1, 4]
