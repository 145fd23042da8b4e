"""What slices of TPUs need for a training step: the tables and the picture of docs/scaling.md.

    python launch/speed/bench_pods.py compile --rows FILE [--groups table scaling fsdp] [--hlo DIR]
    python launch/speed/bench_pods.py show --rows FILE [--picture FILE]

It needs `pip install 'jax-prompt[tpu]'` and no TPU. `compile` compiles the training step of each
run as `jax-prompt plan` does, and adds a line of JSON to FILE as soon as one is done. Runs that are
in FILE are not compiled again, so that it can be stopped and started. A step takes 30 to 60 s of
processor time. With --hlo the compiled programs are kept as text. `show` prints the tables and
draws weak scaling.

All runs: bfloat16, frozen weights too; 32 images a chip, 224 px; 100 classes, 1,000 images; 50
prompts and AdamW, or LION.
"""

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jax_prompt.runs.backbone import unloaded_backbone
from jax_prompt.runs.collectives import runs
from jax_prompt.runs.config import RunConfig, resolve
from jax_prompt.runs.need import Need
from jax_prompt.runs.plan import Shapes, Size
from jax_prompt.runs.program import build_program
from jax_prompt.runs.topology import tpu_slice
from jax_prompt.train.step import make_step

SIZE = Size(100, 1000)
IMAGES = 32
SLICES = ('v5e:4x4', 'v5e:2x4', 'v6e:2x4', 'v5p:4x4x4')
BACKBONES = {'vit_b16_224': 'ViT-B/16', 'vit_l16_224': 'ViT-L/16', 'vit_h14_224': 'ViT-H/14'}
METHODS = {'vpt_deep': 'VPT-deep', 'lion': 'LION'}
# Chips, and a slice that has them; one chip is taken of four.
PODS = {1: 'v5e:2x2', 4: 'v5e:2x2', 8: 'v5e:2x4', 16: 'v5e:4x4', 64: 'v5e:8x8', 256: 'v5e:16x16'}
CLOCK = {'TPU v5 lite': 1.5e9}  # cycles a second: 197 TFLOP/s of four units of 128 x 128
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_HEAD = re.compile(r'(?:ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$')


class Run(NamedTuple):
    """A run on a slice.

    Attributes:
      backbone: its name.
      method: its name.
      topology: the slice.
      chips: how many of the slice's; 0: all.
      fsdp: chips that share each frozen weight.
      remat: what the backward pass keeps.
    """

    backbone: str
    method: str
    topology: str
    chips: int = 0
    fsdp: int = 1
    remat: str = 'auto'

    def config(self, chips: int) -> RunConfig:
        """Returns its configuration on so many chips."""
        return resolve(
            {
                'data': 'digits',
                'backbone': self.backbone,
                'method': self.method,
                'batch_size': IMAGES * chips,
                'search': False,
                **({'num_prompts': 50} if self.method == 'vpt_deep' else {}),
                'engine': {'num_devices': chips, 'fsdp': self.fsdp},
                'model': {'dtype': 'bfloat16', 'frozen_dtype': 'bfloat16', 'remat': self.remat},
            }
        )


def table() -> Iterator[Run]:
    """Yields the runs of the large table."""
    for topology in SLICES:
        for method in METHODS:
            for backbone in ('vit_b16_224', 'vit_h14_224', 'vit_l16_224'):
                yield Run(backbone, method, topology)


def scaling() -> Iterator[Run]:
    """Yields the runs of weak scaling."""
    for fsdp in (1, 4, 8):
        for chips in (256, 1, 16, 4, 64, 8):
            if chips >= fsdp:
                topology = PODS[chips]
                one = 1 if chips == 1 else 0
                yield Run('vit_b16_224', 'vpt_deep', topology, one, fsdp)


def fsdp() -> Iterator[Run]:
    """Yields the runs that show what split weights save."""
    for backbone in ('vit_h14_224', 'vit_b16_224'):
        for share in (4, 1):
            for remat in ('none', 'save', 'full'):
                yield Run(backbone, 'vpt_deep', 'v5e:2x4', 0, share, remat)


GROUPS = {'table': table, 'scaling': scaling, 'fsdp': fsdp}


def cycles(text: str) -> int:
    """Returns the cycles that the compiler estimates for one run of a program, of its text.

    Operations are counted one after the other; collective operations have no estimate.
    """
    times, now, total = runs(text), '', 0
    for line in text.splitlines():
        if match := _HEAD.match(line):
            now = match[1]
        elif match := _CYCLES.search(line):
            total += times.get(now, 0) * int(match[1])
    return total


def compile_run(run: Run, hlo: Path | None) -> dict[str, Any]:
    """Compiles a run's step; returns its row."""
    start = time.process_time()
    devices = tpu_slice(run.topology)
    chips = run.chips or len(devices)
    config = run.config(chips)
    backbone = unloaded_backbone(config)
    program = build_program(config, backbone, *SIZE, devices)
    shapes = Shapes(config, program, devices[0], SIZE, backbone)
    network: Any = program.classifier.backbone.config
    row = {**run._asdict(), 'chips': chips, 'kind': devices[0].device_kind, 'chose': network.remat}
    args = shapes.step()
    try:
        compiled = make_step.lower(*args).compile()
    except Exception as error:  # one that does not fit is a row too
        return {**row, 'error': ' '.join(str(error).split())[:300]}
    need, text = shapes.need_of(compiled, args), compiled.as_text() or ''
    if hlo:
        hlo.mkdir(parents=True, exist_ok=True)
        name = '_'.join(map(str, run)).replace(':', '_')
        (hlo / f'{name}.txt').write_text(text)
    return {**row, **figures(need, chips), 'cycles': cycles(text), **seconds(start)}


def figures(need: Need, chips: int) -> dict[str, Any]:
    """Returns what a step needs as a row holds it; sizes in bytes."""
    times: Counter[str] = Counter()
    for one in need.found:
        times[one.kind] += one.times
    held = {name: getattr(need, name) for name in ('weights', 'trained', 'images', 'scratch')}
    return {
        **held,
        'times': dict(times),
        'sent': sum(one.sent(chips) for one in need.found),
    }


def seconds(start: float) -> dict[str, float]:
    """Returns the processor time since `start`, in seconds."""
    return {'seconds': round(time.process_time() - start, 1)}


def read(path: Path) -> dict[Run, dict[str, Any]]:
    """Returns the rows of a file by their runs."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = map(json.loads, lines)
    return {Run(*row.pop('run')): row for row in rows}


def main() -> None:
    """Compiles, or shows what was compiled."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('what', choices=('compile', 'show'))
    parser.add_argument('--rows', type=Path, required=True)
    parser.add_argument('--groups', nargs='+', choices=tuple(GROUPS), default=list(GROUPS))
    parser.add_argument('--hlo', type=Path)
    parser.add_argument('--picture', type=Path)
    args = parser.parse_args()
    if args.what == 'show':
        from bench_pods_show import show

        return show(read(args.rows), args.picture)
    for run in [run for name in args.groups for run in GROUPS[name]()]:
        if run not in read(args.rows):
            row = compile_run(run, args.hlo)
            print(row, flush=True)
            with args.rows.open('a') as file:
                file.write(json.dumps({'run': run, **row}) + '\n')


if __name__ == '__main__':
    main()
