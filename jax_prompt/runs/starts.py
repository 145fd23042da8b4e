"""The program and the initial values of a run, for each of its numbers of prompts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jax_prompt.core.tree import Tree, split
from jax_prompt.methods import get_method
from jax_prompt.runs.build import (
    LoadedBackbone,
    build_program,
    init_added,
    init_params,
    planned,
    trains,
)
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.prompts import prototypes_path, run_prototypes
from jax_prompt.train.job import Data
from jax_prompt.train.step import Program


@dataclass
class Start:
    """The initial state of a training with P prompts. It equals that of a run with only that P.

    Attributes:
      program: starts from the image.
      trainable: the initial trainable tree, prompts calibrated where the method does that.
      fixed: frozen leaves outside the backbone: {'tuner': ...} where prompts do not train.
      calibration: report of `calibrate.prototypes`, or None.
    """

    program: Program
    trainable: Tree
    fixed: Tree
    calibration: dict[str, Any] | None = None


def make_starts(
    config: RunConfig,
    backbone: LoadedBackbone,
    num_classes: int,
    train: Data,
    workdir: Path,
    say: Callable[[str], None],
) -> tuple[dict[int, Start], Tree]:
    """Makes what each of a run's numbers of prompts starts from.

    Args:
      config: the run; `config.lengths` says which numbers.
      backbone: with its weights.
      num_classes: K.
      train: the training images.
      workdir: the run directory, which keeps calibrated prompts.
      say: prints a line.

    Returns:
      By number of prompts, the largest first; and the frozen tree that all share, on one device.
    """
    method, starts, shared = get_method(config.method), dict[int, Start](), Tree()
    for number in sorted(config.lengths, reverse=True):
        own = replace(config, num_prompts=number)
        network = planned(backbone, own)
        program = build_program(own, network, num_classes, len(train.labels))
        if not starts:
            trainable, frozen = init_params(own, network, program.classifier)
            shared = {name: part for name, part in frozen.items() if name == 'backbone'}
            common = {name: part for name, part in trainable.items() if name == 'backbone'}
            fixed = {name: part for name, part in frozen.items() if name not in shared}
        else:
            added = init_added(own, program.classifier)
            added, fixed = split(added, trains(method, own, program.classifier))
            trainable = {**common, **jax.tree.map(jnp.asarray, added)}
            fixed = jax.tree.map(lambda x: jnp.asarray(x, config.model.frozen_dtype), fixed)
        start = Start(program, trainable, fixed)
        if method.calibrated:
            path = prototypes_path(own, workdir)
            prompts, report = run_prototypes(own, program, train.data, shared['backbone'], path)
            start.calibration = report
            say(f'{number} prototypes by {report["construction"]}: {report["seconds"]:.1f} s')
            place = trainable if config.train_prompts else fixed
            place['tuner'] = program.classifier.tuner.calibrated(place['tuner'], prompts)
        starts[number] = start
    return starts, shared
