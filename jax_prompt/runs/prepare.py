"""What a run trains on and starts from, made in order: data, backbone, initial values, the cut.

`prepare` gives one frozen object. Nothing in it changes while the run searches, trains, prunes and
tests. A run that is restored starts from the same functions (`initial`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jax_prompt.core.tree import Tree, count, split
from jax_prompt.data.open import Source
from jax_prompt.methods import get_method
from jax_prompt.runs.backbone import LoadedBackbone, build_backbone
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.inputs import join, load_splits, open_data
from jax_prompt.runs.kept import keep, keep_backbone
from jax_prompt.runs.prefix import make_prefix
from jax_prompt.runs.program import build_program, init_added, init_params, run_mesh, trains
from jax_prompt.runs.prompts import prototypes_path, run_prototypes
from jax_prompt.train.job import Data, Job
from jax_prompt.train.members import num_steps
from jax_prompt.train.mesh import split_frozen
from jax_prompt.train.optim import Hyper, check_warmup
from jax_prompt.train.program import Program

Say = Callable[[str], None]


@dataclass(frozen=True)
class Start:
    """The initial state of a training with P prompts. It equals that of a run with only that P.

    Attributes:
      num_prompts: P.
      program: the training program; the length of its schedule is set by `Prepared.job`.
      trainable: the initial trainable tree, on one device; prompts are calibrated where the method
        does that.
      frozen: all that the program needs beside it, on the devices of the run.
      fixed: the frozen leaves outside the backbone: {'tuner': ...} where prompts do not train.
      calibration: report of `calibrate.spt.prototypes`, or None.
    """

    num_prompts: int
    program: Program
    trainable: Tree
    frozen: Tree
    fixed: Tree
    calibration: dict[str, Any] | None = None


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to train.

    Attributes:
      config: the resolved configuration.
      workdir: the run directory.
      source: the opened data.
      backbone: the backbone, without the host's copy of its weights.
      splits: the examples of each split, as images or at the cut.
      starts: the initial states by number of prompts, the largest first.
      say: prints a line.
      quiet: print nothing.
    """

    config: RunConfig
    workdir: Path
    source: Source
    backbone: LoadedBackbone
    splits: Mapping[str, Data]
    starts: Mapping[int, Start]
    say: Say
    quiet: bool

    @property
    def start(self) -> Start:
        """The initial state of a run with the configured number of prompts."""
        return self.starts[self.config.num_prompts]

    def train_and_val(self) -> Data:
        """Returns train and val joined."""
        names = ('train', 'val')
        splits = [self.source.splits[name] for name in names]
        parts = [self.splits[name] for name in names]
        return join(self.config, splits, parts, self.backbone.config.image_size)

    def job(
        self,
        name: str,
        directory: str,
        start: Start,
        hyper: Hyper,
        train: Data,
        val: Data | None,
        epochs: int = 0,
    ) -> Job:
        """Returns one training of this run.

        Args:
          name: 'train', or 'search/lr_0.01', as it stands in metrics.jsonl.
          directory: where its checkpoints lie, below the run directory.
          start: its initial state.
          hyper: learning rate and weight decays.
          train: training examples.
          val: validation examples, or None.
          epochs: length of the schedule; 0: the run's.
        """
        config = self.config
        epochs = epochs or config.epochs
        steps = num_steps(len(train.labels), config.batch_size, config.drop_last)
        check_warmup(config.optim, epochs, steps)
        return Job(
            name=name,
            directory=self.workdir / directory,
            program=replace(start.program, steps_per_epoch=steps, epochs=epochs),
            trainable=start.trainable,
            frozen=start.frozen,
            hyper=hyper,
            seed=config.seed,
            train=train,
            val=val,
            batch_size=config.batch_size,
            engine=config.engine,
            metrics=self.workdir / 'metrics.jsonl',
            quiet=self.quiet,
        )


def prepare(
    config: RunConfig, workdir: Path, *, test: bool = True, quiet: bool = False
) -> Prepared:
    """Reads data and weights, makes the model, calibrates, and computes the frozen prefix.

    Args:
      config: the resolved configuration.
      workdir: the run directory; the split and calibrated prompts are kept there.
      test: False puts the test split aside as soon as the data is open: none of its images are
        read.
      quiet: print nothing.

    Raises:
      ValueError: the input is wrong, or it has changed since the run began.
    """
    say: Say = (lambda text: None) if quiet else _print
    mesh = run_mesh(config)  # too few devices are said before anything is read
    source = open_data(config, config.data)
    keep(source, workdir)
    if not test:
        seen = {name: part for name, part in source.splits.items() if name != 'test'}
        source = replace(source, splits=seen)
    backbone = build_backbone(config)
    keep_backbone(backbone, config.weights, workdir)
    for name, reason in backbone.skipped.items():
        say(f'weights: {name} is not used: {reason}')
    for note in backbone.notes:
        say(f'weights: {note}')
    images = load_splits(config, source.splits, backbone.config.image_size)
    classes = len(source.classes)
    starts, shared = _make_starts(config, backbone, classes, images['train'], workdir, say)
    backbone = replace(backbone, tree=None)  # what the host had of the weights
    shared = split_frozen(shared, mesh)  # on several devices, in place of one device's copy
    starts, splits = _from_the_cut(config, starts, shared, images)
    sizes = ', '.join(f'{name} {len(part.labels)}' for name, part in splits.items())
    say(f'{source.name}: {classes} classes, {sizes}')
    if config.batch_size > (most := len(splits['train'].labels)):
        say(
            f'batch_size is {config.batch_size}, more than the {most} images of train: each step '
            f'repeats some, which count for nothing. A batch_size of {most} or less is faster'
        )
    counts = {count(start.trainable) for start in starts.values()}
    text = ' to '.join(map(str, sorted({min(counts), max(counts)})))
    say(f'{config.method} trains {text} parameters')
    return Prepared(config, workdir, source, backbone, splits, starts, say, quiet)


def initial(
    config: RunConfig, backbone: LoadedBackbone, num_classes: int, num_train: int
) -> tuple[Program, Tree, Tree]:
    """Returns the program of a run, and its initial trees before any calibration.

    Args:
      config: the run.
      backbone: with its weights.
      num_classes: K.
      num_train: training images.

    Returns:
      The program that starts from the image, the trainable and the frozen tree, on one device.
    """
    program = build_program(config, backbone, num_classes, num_train)
    return (program, *init_params(config, backbone, program.classifier))


def _make_starts(
    config: RunConfig,
    backbone: LoadedBackbone,
    num_classes: int,
    train: Data,
    workdir: Path,
    say: Say,
) -> tuple[dict[int, Start], Tree]:
    """Makes the start of each of a run's numbers of prompts (`config.lengths`), the largest first.

    Returns:
      The starts, from the image, whose frozen trees lack the backbone; and the frozen backbone that
      they share, {'backbone': ...}. All is on one device.
    """
    method, starts, num_train = get_method(config.method), dict[int, Start](), len(train.labels)
    common, shared = Tree(), Tree()  # what trains and what is frozen of the backbone
    for number in sorted(config.lengths, reverse=True):
        own = replace(config, num_prompts=number)
        if not starts:
            program, trainable, frozen = initial(own, backbone, num_classes, num_train)
            shared = {name: part for name, part in frozen.items() if name == 'backbone'}
            common = {name: part for name, part in trainable.items() if name == 'backbone'}
            fixed = {name: part for name, part in frozen.items() if name not in shared}
        else:
            program = build_program(own, backbone, num_classes, num_train)
            added = init_added(own, program.classifier)
            added, fixed = split(added, trains(method, own, program.classifier))
            trainable = {**common, **jax.tree.map(jnp.asarray, added)}
            fixed = jax.tree.map(lambda x: jnp.asarray(x, config.model.frozen_dtype), fixed)
        report = None
        if method.calibrated:
            path = prototypes_path(own, workdir)
            prompts, report = run_prototypes(own, program, train.data, shared['backbone'], path)
            say(f'{number} prototypes by {report["construction"]}: {report["seconds"]:.1f} s')
            place = trainable if config.train_prompts else fixed
            place['tuner'] = program.classifier.tuner.calibrated(place['tuner'], prompts)
        starts[number] = Start(number, program, trainable, fixed, fixed, report)
    return starts, shared


def _from_the_cut(
    config: RunConfig, starts: Mapping[int, Start], shared: Tree, images: Mapping[str, Data]
) -> tuple[dict[int, Start], dict[str, Data]]:
    """Computes what comes before the cut; returns the starts and the splits from there.

    Args:
      config: the run.
      starts: from the image.
      shared: the frozen backbone, on the devices of the run.
      images: the splits.
    """
    start = next(iter(starts.values()))
    first, total = start.program, sum(len(part.labels) for part in images.values())
    still = split_frozen(start.fixed, first.mesh) if start.fixed else {}
    prefix = make_prefix(config, first, {**shared, **still}, total)
    splits = {name: prefix.apply(part) for name, part in images.items()}
    shared, moved = prefix.frozen_after(shared), {}
    for number, start in starts.items():
        program = replace(start.program, start=prefix.cut)
        # Candidates that share this very tree can train side by side.
        fixed = split_frozen(start.fixed, first.mesh) if start.fixed else {}
        frozen = {**shared, **fixed} if fixed else shared
        moved[number] = replace(start, program=program, frozen=frozen)
    return moved, splits


def _print(text: str) -> None:
    print(text, flush=True)
