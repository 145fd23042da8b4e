"""Measures the train step against PyTorch, and the operations that the step is made of.

    python launch/speed/speed.py step --arch vit_ti16_224 --batch 8 --prompts 50 --rival torch
    python launch/speed/speed.py step --arch swin_t_224 --method lion
    python launch/speed/speed.py forward --arch vit_ti16_224 --batch 64
    python launch/speed/speed.py ops --arch vit_ti16_224 --batch 8 --prompts 50
    python launch/speed/speed.py machine

`step`: a method's own parameters and the head by SGD with momentum. On a ViT or a Swin the method
is VPT-deep, on a ResNet a border of pixels (`vpt_pad`); `--method lion` runs on all, its solves by
`--iterations` plain steps each way. Each side is a process of its own on the same weights, images
and number of threads; they must agree on the losses of the first steps before anything is timed.
Then the sides take turns (A B A B ...), and the median over the turns counts. Memory is a side's
resident set (on a GPU the device's own figure): the peak of the whole process, and the peak of the
timed steps above what was resident before the first step. JAX's side finds its programs in a
compilation cache that a process before it filled, as every run after the first does: the compiler's
own memory would otherwise count as the step's. `--remat save full` and `--rival torch
torch_compile` run more sides at once. A batch is computed in the parts that a run would choose,
`--micro_batch` says otherwise. `forward` is the same for evaluation.

Measure on an idle machine. Where other work shares the cores, PyTorch's OpenMP threads spin, and
small models look up to 30 times slower than they are: a busy machine is warned of. Turns go on
until each ratio to a rival is known within 5 % (the standard error of its median over the turns),
or for four times as many turns; then the table says that it isn't known so well.

Below the table stands the step's share of the machine's rate of products (`bench_flops.py`).

`machine`: the rates of matrix products in NumPy, JAX and PyTorch, beside which figures of different
machines can be compared.

`ops`: forward and backward of attention and GELU written in several ways, in turns as well.

`methods`, `deq`, `kmeans` and `population` run `bench_methods.py`, `bench_deq.py`,
`bench_kmeans.py` and `bench_population.py`: a step of each method, the equilibrium layer against
other libraries' solvers, SPT's k-means, trainings side by side against the same in a row.
`--out FILE` writes the figures as JSON, with the machine and the versions.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_arch import METHODS, RIVALLED, VITS
from bench_machine import machine, reset_peak, resident
from bench_table import RIVALS, show_step, spreads, summary

from jax_prompt.backbones.architectures import ARCHITECTURES
from jax_prompt.door import enter

REMATS = ('none', 'save', 'full')
SETTINGS = (
    *('command', 'arch', 'method', 'threads', 'dtype', 'precision'),
    *('micro_batch', 'cached_rival'),
)
FILES = {name: f'bench_{name}' for name in ('methods', 'deq', 'kmeans', 'population')}
# How far the losses of the first steps may lie apart, relatively.
TOLERANCE = {'float32': 1e-4, 'reduced': 3e-2}


def serve(args: argparse.Namespace) -> None:
    """A side's process: answers each line of its input, a number of steps, by one line of JSON."""
    settings = json.loads(args.settings)
    if hasattr(os, 'sched_setaffinity') and settings['threads'] < os.cpu_count():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings['threads']])
    problem = dict(np.load(settings['problem']))
    config = ARCHITECTURES[settings['arch']]
    side: Any
    if args.side in RIVALS:
        from bench_torch import TorchSide

        side = TorchSide(config, problem, settings, args.side == 'torch_compile')
    else:
        from bench_jax import JaxSide

        side = JaxSide(replace(config, remat=args.side.partition('_')[2]), problem, settings)
    side.wait()
    act = side.evaluate if settings['command'] == 'forward' else side.train_step
    before = resident('VmRSS')
    reset_peak()
    start = time.perf_counter()
    losses = [float(act())]
    side.wait()
    first, first_peak = time.perf_counter() - start, resident('VmHWM')
    since_start = time.time() - float(os.environ['BENCH_STARTED'])
    losses += [float(act()) for _ in range(4)]
    reset_peak()
    answer = {'losses': losses, 'first_step_seconds': first, 'before_mb': before}
    answer['start_to_first_step_seconds'] = since_start
    print(json.dumps(answer), flush=True)
    for line in sys.stdin:
        steps = int(line)
        start = time.perf_counter()
        for _ in range(steps):
            act()
        side.wait()
        seconds = (time.perf_counter() - start) / steps
        peak = resident('VmHWM')
        answer = {'seconds': seconds, 'step_peak_mb': peak, 'peak_mb': max(peak, first_peak)}
        print(json.dumps({**answer, **side.facts()}), flush=True)


class Side:
    """A side's process, seen from here."""

    def __init__(self, name: str, settings: dict):
        own = {
            'OMP_NUM_THREADS': str(settings['threads']),
            'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
            'GLIBC_TUNABLES': settings['glibc_tunables'],
            'JAX_COMPILATION_CACHE_DIR': settings['cache'],
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
            'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '0',
            'BENCH_STARTED': str(time.time()),
        }
        command = [sys.executable, __file__, 'serve', '--side', name]
        self.name = name
        self.process = subprocess.Popen(
            [*command, '--settings', json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **own},
        )

    def answer(self) -> dict[str, Any]:
        """Waits for the next line of JSON; other lines are passed on to stderr."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith('{'):
                return json.loads(line)
            print(line, end='', file=sys.stderr)
        raise RuntimeError(f'side {self.name} ended with status {self.process.wait()}')

    def run(self, steps: int) -> dict[str, Any]:
        """Takes steps and returns {'seconds' a step, memory in MB, ...}."""
        assert self.process.stdin is not None
        self.process.stdin.write(f'{steps}\n')
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def check_losses(firsts: Mapping[str, Mapping[str, Any]], tolerance: float) -> None:
    """Raises ValueError where a side's first losses are not those of the first side."""
    names = list(firsts)
    reference = np.array(firsts[names[0]]['losses'])
    for name in names[1:]:
        losses = np.array(firsts[name]['losses'])
        if not np.all(np.abs(losses - reference) <= tolerance * np.abs(reference)):
            raise ValueError(
                f'{name} computes other losses than {names[0]}: {losses} against {reference}, '
                f'allowed: {tolerance} relatively; the sides must do the same work to be compared'
            )


def bench_step(args: argparse.Namespace) -> dict[str, Any]:
    """Measures the sides in turns."""
    # Here, as these load JAX, which a rival's process must not hold.
    from bench_problem import make_problem, options_of
    from bench_rates import rate

    from jax_prompt.core.tree import EXEMPT

    config = ARCHITECTURES[args.arch]
    names = [f'jax_{remat}' for remat in args.remat] + args.rival
    exact = args.dtype == 'float32' and args.precision == 'float32'
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            **{k: getattr(args, k) for k in SETTINGS},
            **{'lr': 0.05, 'weight_decay': 1e-3, 'momentum': 0.9, 'exempt': EXEMPT},
            'options': options_of(args.method, args.prompts, args.iterations),
            'problem': str(Path(folder) / 'problem.npz'),
            'cache': str(Path(folder) / 'compiled'),
            'glibc_tunables': '' if args.no_huge_pages else 'glibc.malloc.hugetlb=1',
        }
        problem = make_problem(config, args.method, settings['options'], args.batch, 100)
        np.savez(settings['problem'], **problem)  # type: ignore[arg-type]
        sides, firsts = [], {}
        try:
            for name in names:  # one after the other: each compiles with the machine to itself
                if name not in RIVALS:  # compiled once before, as in any run but a user's first
                    first = Side(name, settings)
                    uncached = first.answer()
                    first.close()
                sides.append(Side(name, settings))
                firsts[name] = sides[-1].answer()
                if name not in RIVALS:
                    for key in ('first_step_seconds', 'start_to_first_step_seconds'):
                        firsts[name][f'uncached_{key}'] = uncached[key]
            check_losses(firsts, TOLERANCE['float32' if exact else 'reduced'])
            turns: dict[str, list[dict]] = {name: [] for name in names}
            for turn in range(4 * args.turns):
                for side in sides:
                    turns[side.name].append(side.run(args.steps))
                if turn + 1 >= args.turns and max(spreads(turns).values(), default=0.0) < 0.05:
                    break
        finally:
            for side in sides:
                side.close()
    done = {name: summary(firsts[name], turns[name], args.batch) for name in names}
    return {'sides': done, 'spreads': spreads(turns), 'rate': rate(args.dtype, args.precision)}


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description='Times the train step, or its operations.')
    commands = parser.add_subparsers(dest='command', required=True)
    serving = commands.add_parser('serve')  # started by `step` itself
    serving.add_argument('--side', required=True)
    serving.add_argument('--settings', required=True)
    step = commands.add_parser('step', help='the train step, against PyTorch')
    forward = commands.add_parser('forward', help='evaluation, against PyTorch')
    ops = commands.add_parser('ops', help='attention and GELU in several forms')
    for command in (step, forward, ops):
        known = VITS if command is ops else RIVALLED
        command.add_argument('--arch', choices=sorted(known), default='vit_ti16_224')
        command.add_argument('--batch', type=int, default=8)
        command.add_argument(
            '--prompts', type=int, default=0, help='0: 50 a layer, a border of 10 pixels'
        )
        command.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
        command.add_argument('--turns', type=int, default=5, help='turns of each side')
        command.add_argument('--steps', type=int, default=5, help='steps (or calls) a turn')
        command.add_argument('--out', type=Path, help='JSON file for the figures')
    rates = commands.add_parser('machine', help='rates of matrix products')
    rates.add_argument('--size', type=int, default=2048)
    rates.add_argument('--turns', type=int, default=5)
    rates.add_argument('--out', type=Path, help='JSON file for the figures')
    for command in (step, forward):
        command.add_argument('--rival', choices=RIVALS, nargs='*', default=['torch'])
        command.add_argument('--remat', choices=REMATS, nargs='+', help='default: as in a run')
        command.add_argument('--method', help='vpt_deep (vpt_pad on a ResNet) or lion')
        command.add_argument('--iterations', type=int, default=10, help='of each solve of LION')
        command.add_argument(
            '--cached_rival', action='store_true', help='keep features of the raw image there too'
        )
        command.add_argument('--micro_batch', type=int, default=0, help='0: as in a run')
        command.add_argument('--threads', type=int, default=2, help='of each side')
        command.add_argument('--precision', choices=('float32', 'tensorfloat32'), default='float32')
        command.add_argument('--no-huge-pages', action='store_true', help='plain malloc')
    args = parser.parse_args()
    if args.command in ('step', 'forward'):
        family = ARCHITECTURES[args.arch].family
        args.method = args.method or METHODS[family][0]
        if args.method not in METHODS[family]:
            parser.error(f'--method {args.method}; allowed on a {family}: {METHODS[family]}')
        args.remat = args.remat or ['none' if family == 'resnet' else 'save']
    if args.command not in ('serve', 'machine'):
        args.prompts = args.prompts or (10 if getattr(args, 'method', '') == 'vpt_pad' else 50)
    return args


def main() -> None:
    """Runs the benchmark that is asked for."""
    if sys.argv[1:2] and sys.argv[1] in FILES:
        module = importlib.import_module(FILES[sys.argv.pop(1)])
        module.main()
        return
    args = parse()
    if args.command == 'serve':
        serve(args)
        return
    given = {k: v for k, v in vars(args).items() if k != 'out'}
    result: dict[str, Any] = {'machine': machine(), 'arguments': given}
    print(json.dumps(result['machine']))
    if result['machine']['load_before'] > 0.5:
        print('warning: the machine is busy, the ratios are worth nothing', file=sys.stderr)
    if args.command in ('step', 'forward'):
        result |= bench_step(args)
        show_step(result)
    elif args.command == 'machine':
        from bench_rates import bench_machine

        result |= bench_machine(args)
    else:
        from bench_ops import bench_ops

        result |= bench_ops(args)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    enter(main)
