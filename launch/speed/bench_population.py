"""Times S trainings side by side against the same S in a row, on the embedded default.

    python launch/speed/speed.py population --members 8 --sizes 2 8 --epochs 3 [--batch 32]

`vit_micro` on digits as `configs/quickstart.py` has it; the members differ in learning rate. In a
row twice: each training compiles its own programs, as runs started one by one do the first time
(`alone`), or all find those of the first (`in a row`, what a search does without a population).
`side by side N`: populations of N, one after the other. The ways take turns (A B C A B C ...), no
compilation outlives a way, and medians over the turns count: of all seconds, compilation,
validation and checkpoints included, and of the steps' images/s, each epoch's first call left out
with the first epoch. Run it on an idle machine.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from bench_machine import machine

from jax_prompt.core.tree import Tree
from jax_prompt.door import enter
from jax_prompt.runs.config import RunConfig, resolve
from jax_prompt.runs.prepare import prepare
from jax_prompt.search.population import fit_population
from jax_prompt.search.sizing import Population, choose_size
from jax_prompt.train.job import Job
from jax_prompt.train.log import read_metrics
from jax_prompt.train.loop import fit
from jax_prompt.train.mesh import replicate
from jax_prompt.train.optim import Hyper

ROOT = Path(__file__).resolve().parents[2]


def embedded_default(method: str) -> RunConfig:
    """Returns the resolved config of `configs/quickstart.py`."""
    place = importlib.util.spec_from_file_location('quickstart', ROOT / 'configs/quickstart.py')
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return resolve(module.get_config(f'method={method}'))


class Problem:
    """Data, frozen weights and the members' jobs."""

    def __init__(self, args: argparse.Namespace):
        config = embedded_default(args.method)
        config = replace(config, batch_size=args.batch, epochs=args.epochs)
        with tempfile.TemporaryDirectory() as name:
            prepared = prepare(config, Path(name), test=False, quiet=True)
        start, splits = prepared.start, prepared.splits
        start = replace(start, trainable=replicate(start.trainable, start.program.mesh))
        self.hypers = [
            Hyper(float(lr), config.weight_decay, config.head_weight_decay)
            for lr in np.geomspace(1e-3, 3e-2, args.members)
        ]
        self.template = prepared.job(
            'member', 'member', start, self.hypers[0], splits['train'], splits['val']
        )

    def jobs(self, folder: Path) -> list[Job]:
        """Returns the members, writing into a folder."""
        return [
            replace(
                self.template,
                name=f'member_{i}',
                directory=folder / f'member_{i}',
                hyper=hyper,
                metrics=folder / 'metrics.jsonl',
            )
            for i, hyper in enumerate(self.hypers)
        ]

    def run(self, way: str, size: int) -> dict[str, Any]:
        """Trains all members one way, from no compiled program."""
        with tempfile.TemporaryDirectory() as name:
            jobs = self.jobs(Path(name))
            jax.clear_caches()
            start, ends = time.perf_counter(), []
            for first in range(0, len(jobs), size):
                group = jobs[first : first + size]
                if way == 'alone':
                    jax.clear_caches()
                if size == 1:
                    ends.append(fit(group[0]).trainable)
                    continue
                for outcome in fit_population(group):
                    assert outcome is not None and outcome.fit is not None
                    ends.append(outcome.fit.trainable)
            seconds = time.perf_counter() - start
            rows = read_metrics(Path(name) / 'metrics.jsonl')
        rates = [row['images_per_second'] for row in rows if row['epoch'] > 1]
        return {'seconds': seconds, 'images_per_second': statistics.median(rates), 'ends': ends}


def largest_difference(ends: Sequence[Tree], others: Sequence[Tree]) -> float:
    """Returns max |a - b| over two ways' trained weights."""
    pairs = zip(jax.tree.leaves(list(ends)), jax.tree.leaves(list(others)), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description='Times trainings side by side and in a row.')
    parser.add_argument('--method', default='vpt_deep')
    parser.add_argument('--members', type=int, default=8, help='trainings')
    parser.add_argument('--sizes', type=int, nargs='+', default=[2, 8], help='side by side')
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--epochs', type=int, default=3, help='at least 2')
    parser.add_argument('--turns', type=int, default=3)
    parser.add_argument('--out', type=Path, help='JSON file for the figures')
    args = parser.parse_args()
    if args.epochs < 2 or min(args.sizes) < 2:
        parser.error('--epochs and --sizes are at least 2')
    jax.config.update('jax_enable_compilation_cache', False)
    print(json.dumps(machine()), f'{jax.default_backend()}: {jax.devices()[0].device_kind}')
    if machine()['load_before'] > 0.5:
        print('warning: the machine is busy, the ratios are worth nothing', file=sys.stderr)
    problem = Problem(args)
    ways = {'alone': 1, 'in a row': 1, **{f'side by side {n}': n for n in args.sizes}}
    turns: dict[str, list[dict]] = {way: [] for way in ways}
    for _ in range(args.turns):
        for way, size in ways.items():
            turns[way].append(problem.run(way, size))
    rows, solo = {}, turns['in a row'][0]['ends']
    print(
        f'{"":16s} {"seconds":>9s} {"images/s":>9s} {"x alone":>8s} {"x row":>7s} {"steps x":>8s}'
    )
    for way, results in turns.items():
        rows[way] = row = {
            'seconds': statistics.median(r['seconds'] for r in results),
            'seconds_all': [r['seconds'] for r in results],
            'images_per_second': statistics.median(r['images_per_second'] for r in results),
            'largest_difference': largest_difference(results[0]['ends'], solo),
        }
        ratios = [rows['alone']['seconds'] / row['seconds']]
        if way != 'alone':
            ratios.append(rows['in a row']['seconds'] / row['seconds'])
            ratios.append(row['images_per_second'] / rows['in a row']['images_per_second'])
        shown = ' '.join(f'{ratio:7.2f}' for ratio in ratios)
        print(f'{way:16s} {row["seconds"]:9.1f} {row["images_per_second"]:9.0f}  {shown}')
    with tempfile.TemporaryDirectory() as name:
        chosen = choose_size(problem.jobs(Path(name)), Population())
    print(f'a search would train {chosen.members} side by side: {chosen.reason}')
    if args.out:
        given = {k: v for k, v in vars(args).items() if k != 'out'}
        chosen_size = {'members': chosen.members, 'reason': chosen.reason}
        report = {'machine': machine(), 'device': jax.devices()[0].device_kind, 'arguments': given}
        report |= {'ways': rows, 'chosen': chosen_size}
        args.out.write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    enter(main)
