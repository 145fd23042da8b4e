"""How many candidates of a search train side by side.

As many as fit into a memory budget, by the memory analysis of the compiled program. On a CPU they
train together only if that is faster. A step with large matrix products keeps all cores busy, and
several at once do not fit the caches; such a step is known by its FLOPs, and its candidates train
one after the other. A small step (a head on cached features) spends its time on calls, which all
members share. In a short search that saves less time than the shared program takes to compile.
Steps of medium size are timed on a batch.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from jax_prompt.core.devices import num_cores
from jax_prompt.core.ranges import at_least, check_values
from jax_prompt.search.population import members_of
from jax_prompt.train.job import Job
from jax_prompt.train.members import Members
from jax_prompt.train.memory import device_memory_mb
from jax_prompt.train.micro_batch import number_of_parts
from jax_prompt.train.step import make_step

# FLOPs a step and a core: below the first a step is mostly calls, above the second mostly products.
_SMALL, _LARGE = 5e6, 5e8
# Steps of all candidates: about as many small ones repay the population's own program. 8 heads on
# 800 digits: 1,200 steps take 1.2 s one after the other and 1.5 s side by side, 24,000 steps 2.0
# and 1.9 s, compilation included, on two cores.
_MANY_STEPS = 24_000
_TURNS = 3
_ASKED = 'population.size asks for it'


@dataclass(frozen=True)
class Population:
    """How a search trains its candidates.

    Attributes:
      size: largest number of candidates that train at once; 1: one after the other; 0: the search
        chooses, by memory and on CPU by speed.
      memory_mb: memory that the candidates of one program may take, in MB; 0: three quarters of an
        accelerator's memory, 4 GB on CPU.
      rungs: epochs after which the candidates that are worse on val are dropped (successive
        halving, Jamieson & Talwalkar, arXiv:1502.07943); (): no candidate is dropped.
      eta: after each of these epochs one in `eta` candidates goes on, rounded up.
    """

    size: int = at_least(0)
    memory_mb: float = at_least(0.0)
    rungs: tuple[int, ...] = at_least(())
    eta: int = at_least(2, 2)

    def __post_init__(self):
        check_values(self, 'population.')

    def check(self, epochs: int) -> None:
        """Raises ValueError where the rungs do not lie within the candidates' epochs."""
        rungs = list(self.rungs)
        if rungs != sorted(set(rungs)) or any(not 0 < rung < epochs for rung in rungs):
            raise ValueError(
                f'population.rungs is {self.rungs}; allowed: ascending epochs from 1 to '
                f'{epochs - 1}, before the last of a candidate'
            )


@dataclass(frozen=True)
class Size:
    """How many members train side by side, and why.

    Attributes:
      members: S.
      reason: what decided.
      memory_mb: what the program holds, data and frozen weights included; 0: not read.
    """

    members: int
    reason: str
    memory_mb: float = 0.0


def choose_size(jobs: Sequence[Job], options: Population) -> Size:
    """Chooses how many of these jobs train side by side.

    Args:
      jobs: the candidates, those with most prompts first where they differ.
      options: the largest size and the budget.
    """
    size = min(options.size or len(jobs), len(jobs))
    if size == 1:
        return Size(1, _ASKED if options.size else 'there is one candidate')
    # Several processes would each measure another time, but all must make the same choice.
    by_speed = not options.size and jax.default_backend() == 'cpu'
    flops = _flops(jobs[0]) / num_cores() if by_speed else 0.0
    if flops > _LARGE or (flops > _SMALL and jax.process_count() > 1):
        return Size(1, f'one candidate keeps the cores busy ({flops:.1e} FLOPs a step and core)')
    steps = sum(job.last_epoch * job.program.steps_per_epoch for job in jobs)
    if by_speed and steps < _MANY_STEPS:
        return Size(1, f'{steps} steps in all are too few to repay compiling another program')
    budget, need = options.memory_mb or device_memory_mb(0.75), 0.0
    while size > 1:
        # Groups of one size: each size is a program of its own.
        size = math.ceil(len(jobs) / math.ceil(len(jobs) / size))
        members = members_of(jobs[:size])
        need = _held_mb(members.compiled())
        if need <= budget:
            break
        size = max(1, min(size - 1, int(size * budget / need)))
    if size == 1:
        return Size(1, f'two at a time would need more than {budget:.0f} MB')
    if flops > _SMALL:
        # Where prompts differ, one alone takes what lies between the longest and the shortest.
        ends = (0, size - 1) if members.mixed else (0,)
        alone = statistics.mean(_seconds(Members([jobs[i]])) for i in ends)
        beside = _seconds(members) / size
        if beside > 0.95 * alone:
            ratio = beside / alone
            return Size(1, f'a candidate takes {ratio:.2f} x the time when {size} train at a time')
    reason = _ASKED if options.size else f'they need {need:.0f} of {budget:.0f} MB'
    return Size(size, reason, need)


def _flops(job: Job) -> float:
    """Returns the FLOPs of a solo step, as XLA counts them uncompiled (scanned blocks as one)."""
    members = Members([job])
    lowered = members.first_step()(make_step.lower, members.initial()[0])
    parts = number_of_parts(job.batch_size, job.program.at_once)
    return parts * float((lowered.cost_analysis() or {}).get('flops', 0.0))


def _seconds(members: Members) -> float:
    """Returns the median time of a step of all members, the first left out."""
    first, state, times = members.first_step(), members.put(members.initial()), []
    for _ in range(_TURNS + 1):
        start = time.perf_counter()
        state, metrics = first(make_step, state)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _held_mb(compiled: Any) -> float:
    """Returns what a compiled program holds while it runs, in MB; 0 where it does not say."""
    memory: Any = compiled.memory_analysis()
    if memory is None:
        return 0.0
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return (held - memory.alias_size_in_bytes + memory.temp_size_in_bytes) / 1e6
