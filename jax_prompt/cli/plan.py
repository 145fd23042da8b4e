r"""Plan: jax-prompt plan --config NAME[:k=v,k=v] [--topology KIND:SHAPE] [--config.k=v].

    jax-prompt plan --config tune:method=vpt_deep,backbone=vit_h14_224 --topology v5e:4x4 \
        --config.batch_size=512 --config.model.dtype=bfloat16

Compiles the training step, the evaluation and SPT's calibration of a run and prints what they take
on each device: memory by kind, collective operations and the bytes that they send, and what the run
would choose. It computes nothing and reads no weights and no images. If the run does not fit, it
looks for settings that do.

Without --topology it plans for the devices that are there. With it, it plans for a TPU slice that
need not be there, such as v5e:4x4, v5p:2x2x1 or v6e:2x4; that needs pip install 'jax-prompt[tpu]'.
The exit code is 0 if the run fits and 1 if it does not. docs/scaling.md says more.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from jax_prompt.cli.flags import read_flags
from jax_prompt.core.spec import IMAGE
from jax_prompt.runs.config import resolve
from jax_prompt.runs.need import Need
from jax_prompt.runs.plan import Plan, Size, make_plan, smaller
from jax_prompt.runs.topology import tpu_slice


def main(argv: Sequence[str]) -> int:
    """Plans a run and prints the plan; returns the exit code."""
    found = _flags()
    read_flags(found, argv, 'plan', __doc__, ['config'])
    config, size = resolve(found.config), Size(found.classes, found.images)
    devices = tpu_slice(found.topology) if found.topology else None
    plan = make_plan(config, size, devices)
    print(show(plan, size), flush=True)
    if plan.fits:
        return 0
    for flags, changed in smaller(plan).items():
        other = make_plan(changed, size, devices)
        held = max(need.total for need in other.needs)
        print(f'with {flags}: {_size(held)}, {_fitting(other)}', flush=True)
        if other.fits:
            return 1
    print('take a smaller batch (--config.batch_size), more devices or a smaller backbone')
    return 1


def _flags() -> Any:
    from absl import flags

    found = flags.FlagValues()
    text = 'A TPU slice, v5e:4x4 for example; none: the devices that are there.'
    flags.DEFINE_string('topology', '', text, flag_values=found)
    for name, default, text in (
        ('classes', 100, 'Number of classes of the task.'),
        ('images', 1000, 'Number of images of the task, all splits together.'),
    ):
        flags.DEFINE_integer(name, default, text, lower_bound=1, flag_values=found)
    return found


def show(plan: Plan, size: Size) -> str:
    """Returns a plan as text."""
    config, count = plan.config, len(plan.devices)
    kind = plan.devices[0].device_kind
    lines = [
        f'{config.backbone}, {config.method}, batch {config.batch_size} on {count} x {kind}; '
        f'{size.num_classes} classes, {size.num_images} images'
    ]
    lines += [f'  {line}' for line in _choices(plan)]
    titles = {
        'a training step, on each device': plan.step,
        f'evaluation of {config.engine.eval_batch_size} images, on each device': plan.evaluation,
    }
    if plan.calibration:
        name = f'calibration, {config.calibration.batch_size} images at once, on one device'
        titles[name] = plan.calibration
    for title, need in titles.items():
        lines += ['', title, *_table(need), *_traffic(need, count)]
    return '\n'.join([*lines, '', f'{_fitting(plan)} ({_size(plan.has)} a device)'])


def _choices(plan: Plan) -> list[str]:
    """Says what was chosen, and by whom."""
    config, program = plan.config, plan.program
    mesh = program.mesh.shape if program.mesh else {'data': 1, 'fsdp': 1}
    by = 'an estimate of the activations' if mesh['fsdp'] == 1 else 'engine.fsdp and memory'
    why = 'as asked' if config.model.remat != 'auto' else f'by {by}'
    parts = config.batch_size // program.at_once if program.at_once else 1
    remat = getattr(program.classifier.backbone.config, 'remat', 'none')
    lines = [
        f'mesh: data {mesh["data"]} x fsdp {mesh["fsdp"]} (engine.fsdp)',
        f'remat: {remat} ({why})',
        f'parts: {parts} of {config.batch_size // parts} images '
        f'({"as asked" if config.engine.micro_batch else "chosen"})',
        f'dtype: products {config.model.dtype}, frozen weights {config.model.frozen_dtype}',
    ]
    if program.start != IMAGE:
        lines.append('start: stored activations; what comes before is computed once an image')
    return lines


def _table(need: Need) -> list[str]:
    rows = [
        ('frozen weights', need.weights),
        ('trained, optimizer', need.trained),
        ('images', need.images),
        ('activations, scratch', need.scratch),
        ('sum', need.total),
    ]
    return [f'  {name:<21}{_size(nbytes):>11}' for name, nbytes in rows]


def _traffic(need: Need, count: int) -> list[str]:
    """Lists collective operations by kind."""
    if need.too_much:
        return [f'  does not compile: {need.too_much}']
    times, sent = defaultdict[str, int](int), defaultdict[str, float](float)
    for one in need.found:
        times[one.kind] += one.times
        sent[one.kind] += one.sent(count)
    if not times:
        return ['  no collective operations']
    return [f'  {times[kind]} {kind}: sends {sent[kind] / 1e6:.1f} MB' for kind in sorted(times)]


def _fitting(plan: Plan) -> str:
    if not plan.has and plan.fits:
        return 'compiles; the memory of the device is not known'
    return 'fits' if plan.fits else 'does not fit'


def _size(nbytes: float) -> str:
    return f'{nbytes / 2**30:.2f} GiB' if nbytes >= 2**28 else f'{nbytes / 2**20:.1f} MiB'
