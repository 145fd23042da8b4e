"""A plan for the devices of the tests, compiled as a run's programs are."""

import re
from dataclasses import replace

import jax
import pytest

from jax_prompt.cli.main import run_command
from jax_prompt.core.devices import device_bytes
from jax_prompt.core.tree import num_bytes
from jax_prompt.runs import plan as planning
from jax_prompt.runs.backbone import build_backbone
from jax_prompt.runs.need import Need
from jax_prompt.runs.plan import Size, make_plan, smaller
from jax_prompt.runs.prepare import initial
from jax_prompt.runs.topology import tpu_slice

SIZE = Size(3, 64)


@pytest.fixture(scope='module')
def split():
    """A plan of a run on eight devices, whose weights four of them share."""
    return make_plan(_config(), SIZE)


def _config(**changes):
    from jax_prompt.runs.config import resolve

    base = {'data': 'digits', 'backbone': 'vit_micro', 'method': 'vpt_deep', 'num_prompts': 2}
    base |= {'search': False, 'batch_size': 16, 'engine': {'fsdp': 4, 'eval_batch_size': 16}}
    return resolve(base | changes)


def test_a_plan_counts_what_a_run_holds(split):
    config = split.config
    program, trainable, frozen = initial(config, build_backbone(config), *SIZE)
    assert split.program == replace(program, steps_per_epoch=split.program.steps_per_epoch)
    # What trains, and AdamW's two moments of it; the rest is counters.
    assert 0 <= split.step.trained - 3 * num_bytes(trainable) < 100
    blocks = sum(
        leaf.size * 4
        for name, part in frozen['backbone'].items()
        if name.startswith('blocks')
        for leaf in jax.tree.leaves(part)
        if leaf.ndim == 3
    )
    assert split.step.weights == num_bytes(frozen) - 3 * blocks // 4
    image = program.image_size**2 * 3
    assert split.step.images == (64 + 16 // 8) * image
    assert split.step.scratch > split.evaluation.scratch > 0
    assert split.calibration is None
    assert split.fits and split.has == device_bytes(jax.devices()[0]) > 0


def test_a_plan_names_the_collectives(split):
    kinds = {one.kind for one in split.step.found}
    assert kinds == {'all-gather', 'all-reduce'}
    gathers = [one for one in split.step.found if one.kind == 'all-gather']
    assert {one.devices for one in gathers} == {4}
    kernels = {4 * 128 * width for width in (384, 128, 512)}
    assert {one.nbytes for one in gathers} == kernels
    # Four kernels a block, of each part of the batch: in the forward pass, and most of them again
    # in the backward pass.
    layers, parts = 6, split.config.batch_size // split.program.micro_batch
    assert 4 * layers * parts < sum(one.times for one in gathers) <= 2 * 4 * layers * parts
    sums = [one for one in split.step.found if one.kind == 'all-reduce']
    assert sum(one.times * one.nbytes for one in sums) >= layers * 2 * 128 * 4


def test_a_plan_holds_calibration_on_one_device():
    config = _config(method='spt_deep', calibration={'batch_size': 4})
    plan = make_plan(config, SIZE)
    need, side = plan.calibration, plan.program.image_size
    # Weights are whole there, though four devices share them in a step.
    assert need.weights > plan.step.weights > need.weights / 4
    assert need.trained < plan.step.trained / 2  # no optimizer yet
    assert need.images == (64 + 4) * side**2 * 3
    spec = plan.program.classifier.spec
    tokens = 4 * (spec.num_lead + spec.num_patches) * spec.width * 4
    assert need.scratch >= 2 * tokens  # what enters a block and what leaves it


def test_what_would_fit(split):
    full = replace(split, step=split.step.__class__(1, 1, 1, 10**15), has=10**9)
    assert not full.fits
    assert not replace(split, has=0, step=Need(1, 1, 1, 0, 'Used too much')).fits
    remat, cast = 'model.remat=full', 'model.frozen_dtype=bfloat16'
    # Its parts are as small as eight devices can share, and its weights are split already.
    assert list(smaller(full)) == [f'--config.{remat}', f'--config.{remat} --config.{cast}']
    at_once = replace(full, program=replace(full.program, micro_batch=0))
    at_once = replace(at_once, config=_config(batch_size=128, engine={'fsdp': 1}))
    *_, last = found = smaller(at_once)
    parts = 'engine.micro_batch=16 --config.engine.eval_batch_size=16'
    assert last == ' '.join(f'--config.{one}' for one in (remat, parts, cast, 'engine.fsdp=8'))
    changed = found[last]
    assert (changed.model.remat, changed.engine.micro_batch, changed.engine.fsdp) == ('full', 16, 8)


def test_the_command_says_whether_a_run_fits(capsys, monkeypatch):
    words = ['plan', '--config=tune:method=linear', '--config.data=digits', '--classes=3']
    words += ['--config.engine.num_devices=1', '--compilation_cache=']
    assert run_command(words) == 0
    said = capsys.readouterr().out
    assert 'vit_micro, linear, batch 32 on 1 x cpu; 3 classes, 1000 images' in said
    assert 'start: stored activations' in said and 'no collective operations' in said
    assert re.search(r'^fits \(.* a device\)$', said, re.MULTILINE)
    monkeypatch.setattr(planning, 'device_bytes', lambda device: 1000)
    assert run_command(words) == 1
    said = capsys.readouterr().out
    assert 'does not fit (0.0 MiB a device)' in said
    assert 'with --config.model.remat=full' in said and 'take a smaller batch' in said


def test_a_slice_needs_the_compiler(monkeypatch):
    from jax.experimental import topologies

    def missing(**options):
        raise RuntimeError('JAX TPU support not installed; cannot generate TPU topology.')

    monkeypatch.setattr(topologies, 'get_topology_desc', missing)
    with pytest.raises(ValueError, match=r"pip install 'jax-prompt\[tpu\]'"):
        tpu_slice('v5e:2x4')

    def unknown(**options):
        raise RuntimeError('INVALID_ARGUMENT: Invalid TPU external name: TPU v55')

    monkeypatch.setattr(topologies, 'get_topology_desc', unknown)
    with pytest.raises(ValueError, match='--topology=v55:2x4 is no TPU slice; give KIND:SHAPE'):
        tpu_slice('v55:2x4')
