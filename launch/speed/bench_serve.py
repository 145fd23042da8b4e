"""Times mixed batches of T tasks on one backbone beside one task's batch, and a model a task.

    python launch/speed/bench_serve.py --arch vit_ti16_224 --method vpt_deep --tasks 1 4 16 64

`one task`: the program with which a run predicts, on a batch of one task: what 1.0 means.
`T tasks`: `Backbone.answer` on a batch whose images go round T tasks; where T is larger than the
batch, the next batch takes the next tasks. `T models`: a model a task, T networks in memory, so
that a batch of B images takes min(T, B) calls. `4 loaded`: the same with one network in memory,
which is loaded from its pack when its task comes; 4 tasks. Weights are noise.

The ways take turns (A B C A B C ...), and medians over the turns count. Memory: the arrays on the
device. On a busy machine only ratios mean anything, and these roughly; `x cpu` compares the seconds
that the processor worked for this process, on which other work has less influence.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from bench_machine import machine
from bench_serve_packs import as_run, config_of, make_run, noisy_packs, write_backbone

from jax_prompt.core.tree import num_bytes
from jax_prompt.door import enter
from jax_prompt.packs.load import load_pack
from jax_prompt.serve import Backbone
from jax_prompt.train.program import make_logits

Way = Callable[[int], Any]  # takes the number of the call


def ways_of(args: argparse.Namespace, folder: Path) -> tuple[dict[str, Way], dict[str, float]]:
    """Returns what is timed, and MB on the device by name."""
    weights = folder / 'noise.safetensors'
    write_backbone(args.arch, weights)
    run = make_run(config_of(args.arch, args.method, args.prompts, weights), args.classes)
    packs = noisy_packs(run, max(args.tasks))
    size, batch = run.program.image_size, args.batch
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)

    def one_task(call: int) -> None:
        np.asarray(make_logits(run.program, run.trainable, run.frozen, images))

    ways: dict[str, Way] = {'one task': one_task}
    memory = {'one task': num_bytes([run.frozen, run.trainable]) / 1e6}
    for count in args.tasks:
        backbone = Backbone(weights, max_batch=batch, capacity=count)
        for i in range(count):
            backbone.add(f't{i}', packs[i])
        memory[f'{count} tasks'] = sum(backbone.device_bytes.values()) / 1e6

        def mixed(call: int, backbone: Backbone = backbone, count: int = count) -> None:
            backbone.answer(images, [(i, f't{(call * batch + i) % count}') for i in range(batch)])

        ways[f'{count} tasks'] = mixed
    for count in args.models:
        models = [as_run(run, pack) for pack in packs[:count]]
        memory[f'{count} models'] = sum(num_bytes([m.frozen, m.trainable]) for m in models) / 1e6

        def apart(call: int, models: list = models) -> None:
            _each(models, images)

        ways[f'{count} models'] = apart
    if args.loaded:

        def loaded(call: int) -> None:
            for pack, part in zip(packs[:4], np.array_split(images, 4), strict=True):
                _each([load_pack(pack, weights)], part)

        ways['4 loaded'] = loaded
        memory['4 loaded'] = memory['one task']
    return ways, memory


def _each(models: list, images: np.ndarray) -> None:
    """Answers images by their own models, one after the other."""
    for part, model in zip(np.array_split(images, len(models)), models, strict=True):
        if len(part):
            np.asarray(make_logits(model.program, model.trainable, model.frozen, part))


def main() -> None:
    """Prints a row a way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--arch', default='vit_ti16_224')
    parser.add_argument('--method', default='vpt_deep')
    parser.add_argument('--prompts', type=int, default=10)
    parser.add_argument('--classes', type=int, default=100)
    parser.add_argument('--batch', type=int, default=64, help='a power of two')
    parser.add_argument('--tasks', type=int, nargs='+', default=[1, 4, 16, 64])
    parser.add_argument('--models', type=int, nargs='*', default=[4, 16])
    parser.add_argument('--loaded', action='store_true', help="time 'loaded in turn' too")
    parser.add_argument('--turns', type=int, default=5)
    parser.add_argument('--calls', type=int, default=2, help='of each way in a turn')
    parser.add_argument('--out', type=Path, help='JSON file for the figures')
    args = parser.parse_args()
    about = machine()
    print(json.dumps(about), f'{jax.default_backend()}: {jax.devices()[0].device_kind}')
    seconds: dict[str, list[float]] = {}
    worked: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        ways, memory = ways_of(args, Path(name))
        for way in ways.values():
            way(0)  # compiles
        for turn in range(args.turns):
            for label, way in ways.items():
                start, cpu = time.perf_counter(), time.process_time()
                for call in range(args.calls):
                    way(turn * args.calls + call)
                seconds.setdefault(label, []).append((time.perf_counter() - start) / args.calls)
                worked.setdefault(label, []).append((time.process_time() - cpu) / args.calls)
    rows = {
        label: {
            'images_per_second': args.batch / statistics.median(taken),
            # Turn by turn: what else the machine does changes from one turn to the next.
            'ratio': statistics.median(
                one / own for one, own in zip(seconds['one task'], taken, strict=True)
            ),
            'cpu_ratio': statistics.median(worked['one task']) / statistics.median(worked[label]),
            'memory_mb': memory[label],
            'seconds': taken,
        }
        for label, taken in seconds.items()
    }
    print(f'{"":12s} {"images/s":>9s} {"x one task":>11s} {"x cpu":>6s} {"MB":>8s}')
    for label, row in rows.items():
        shown = f'{row["images_per_second"]:9.1f} {row["ratio"]:11.2f} {row["cpu_ratio"]:6.2f}'
        print(f'{label:12s} {shown} {row["memory_mb"]:8.1f}')
    if args.out:
        given = {k: v for k, v in vars(args).items() if k != 'out'}
        report = {'machine': about, 'arguments': given, 'ways': rows}
        args.out.write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    enter(main)
