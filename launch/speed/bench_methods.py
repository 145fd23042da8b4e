"""Times a training step of every method, in forward passes of the bare network.

    python launch/speed/speed.py methods --arch vit_ti16_224 --batch 8 [--methods lora]
    python launch/speed/speed.py methods --arch vit_ti16_224 --batch 32 --methods linear --uncut

Each method trains from its cut, as the engine does where no augmentation is random: what lies
before it (tokens, features, raw features) is made once and not timed. `--uncut` also times the step
that starts from the image, `NAME uncut`: the ratio is that of an epoch. Random weights, one batch,
in the parts that a run chooses; medians over turns in which all methods and the forward pass take
part (A B C A B C ...). Run it on an idle machine.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from bench_machine import machine

from jax_prompt.backbones.architectures import ARCHITECTURES
from jax_prompt.core.spec import FEATURES
from jax_prompt.core.tree import count, split
from jax_prompt.data.stored import WithRaw
from jax_prompt.data.transforms import Augment
from jax_prompt.door import enter
from jax_prompt.methods import METHODS, get_method
from jax_prompt.model import build_classifier
from jax_prompt.runs.prefix import cached_cut, frozen_prefix
from jax_prompt.train.memory import plan_step
from jax_prompt.train.optim import Hyper, Optim
from jax_prompt.train.program import Program
from jax_prompt.train.step import make_step

CLASSES = 10


def forward_pass(args: argparse.Namespace) -> Any:
    """Returns a function that runs the bare network once on the batch, and waits."""
    model = build_classifier(ARCHITECTURES[args.arch], get_method('linear'), CLASSES)
    params = model.init(jax.random.key(0))
    images = _images(args).astype(jnp.float32) / 255.0
    run = jax.jit(lambda x: model.apply(params, x))
    return lambda: jax.block_until_ready(run(images))


def _images(args: argparse.Namespace) -> jax.Array:
    size = ARCHITECTURES[args.arch].image_size
    return jax.random.randint(jax.random.key(1), (args.batch, size, size, 3), 0, 256, jnp.uint8)


class Step:
    """A method's training step on one batch, from its cut."""

    def __init__(self, name: str, args: argparse.Namespace, cached: bool = True):
        method, config = get_method(name), ARCHITECTURES[args.arch]
        options = method.with_prompts({}, args.prompts)
        plan = plan_step(config.spec(), method.make_tuner(**options), args.batch)
        config = replace(config, remat=plan.remat)
        model = build_classifier(config, method, CLASSES, **options)
        trains = method.predicate(model.tuner, model.spec)
        trainable, self.frozen = split(model.init(jax.random.key(0)), trains)
        program = Program(
            model,
            Optim('adamw'),
            epochs=10**6,
            steps_per_epoch=100,
            augment=Augment(),
            image_size=model.spec.image_size,
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            micro_batch=plan.micro_batch,
        )
        backbone, images = self.frozen.get('backbone', {}), _images(args)
        budget = 1e6 if cached else 0.0
        cut = cached_cut(program, model.facts.cut, args.batch, budget, backbone)
        self.data: Any = images
        if not cut.at_image:
            self.data = jnp.asarray(frozen_prefix(program, cut, backbone, images, args.batch))
        elif cached and model.facts.needs_raw:
            raw = frozen_prefix(program, FEATURES, backbone, images, args.batch)
            self.data = WithRaw(images, jnp.asarray(raw))
        self.program = replace(program, start=cut)
        self.added = count(trainable) - count(trainable['head'])
        labels = jnp.zeros(args.batch, jnp.int32)
        hyper = Hyper(*(jnp.float32(x) for x in (1e-3, 0.0, 0.0)))
        self.rest = (labels, jnp.ones(args.batch), hyper, jax.random.key(0))
        self.state = self.program.init(trainable)
        lowered = make_step.lower(self.program, self.state, self.frozen, self.data, *self.rest)
        self.compiled: Any = lowered.compile()
        memory: Any = self.compiled.memory_analysis()
        self.scratch_mb = memory.temp_size_in_bytes / 1e6

    def __call__(self) -> None:
        """Takes one step and waits for it."""
        self.state, metrics = self.compiled(self.state, self.frozen, self.data, *self.rest)
        jax.block_until_ready(metrics)


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description='Times a training step of every method.')
    parser.add_argument('--arch', choices=sorted(ARCHITECTURES), default='vit_ti16_224')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--prompts', type=int, default=10, help='prompts a layer')
    parser.add_argument('--methods', nargs='*', default=[m for m in METHODS if m != 'retrain'])
    parser.add_argument('--uncut', action='store_true', help='also each step from the image')
    parser.add_argument('--turns', type=int, default=5)
    parser.add_argument('--out', type=Path, help='JSON file for the figures')
    args = parser.parse_args()
    steps = {'forward pass': forward_pass(args)}
    for name in args.methods:
        steps[name] = Step(name, args)
        if args.uncut:
            steps[f'{name} uncut'] = Step(name, args, cached=False)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(args.turns + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:  # the first is a warm-up
                times[name].append(time.perf_counter() - start)
    unit = statistics.median(times['forward pass'])
    rows = {}
    print(json.dumps(machine()))
    print(f'{"method":20s} {"trains":>12s} {"ms a step":>10s} {"forward passes":>15s} {"MB":>8s}')
    for name, step in steps.items():
        seconds = statistics.median(times[name])
        row: dict[str, Any] = {'seconds': seconds, 'forward_passes': seconds / unit}
        if isinstance(step, Step):
            row |= {'trained': step.added, 'scratch_mb': step.scratch_mb}
        rows[name] = row
        print(
            f'{name:20s} {row.get("trained", 0):12,d} {1e3 * seconds:10.1f} '
            f'{row["forward_passes"]:15.2f} {row.get("scratch_mb", 0.0):8.0f}'
        )
    if args.out:
        given = {k: v for k, v in vars(args).items() if k != 'out'}
        text = json.dumps({'machine': machine(), 'arguments': given, 'methods': rows}, indent=2)
        args.out.write_text(text + '\n', encoding='utf-8')


if __name__ == '__main__':
    enter(main)
