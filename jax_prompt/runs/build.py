"""From a RunConfig to what a run is made of: data, backbone, weights, model and program."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jax_prompt.backbones.architectures import Config
from jax_prompt.backbones.families import family_of
from jax_prompt.backbones.table import find_weights, lookup
from jax_prompt.core.method import Method
from jax_prompt.core.spec import FEATURES, IMAGE, Cut
from jax_prompt.core.tree import Tree, split
from jax_prompt.methods import get_method
from jax_prompt.model import Classifier, build_classifier
from jax_prompt.train.cache import cached_cut, frozen_prefix
from jax_prompt.runs.config import RunConfig
from jax_prompt.train.memory import StepPlan, plan_step
from jax_prompt.train.masked import as_masked
from jax_prompt.train.optim import Hyper, check_warmup
from jax_prompt.train.mesh import data_mesh, split_frozen
from jax_prompt.train.order import num_steps
from jax_prompt.train.job import Data, Job
from jax_prompt.train.step import Program, WithRaw
from jax_prompt.weights.fresh import fresh_norm
from jax_prompt.weights.load import Identity, load_weights


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone with its weights.

    Attributes:
      config: its configuration for this run.
      tree: parameters in per-layer form, numpy; None where the method starts from random ones, and
        in a run that has them on its device.
      identity: which weights these are; None likewise.
      mean: normalisation of images in [0, 1].
      std: likewise.
      skipped: keys of the file that were not used, with the reason.
      notes: what was assumed of the weights.
    """

    config: Config
    tree: Tree | None
    identity: Identity | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...] = ()


def build_backbone(config: RunConfig, recorded: Identity | None = None) -> LoadedBackbone:
    """Reads the weights and settles the backbone's configuration.

    Args:
      config: the run.
      recorded: what a finished run has recorded of its weights; they are read as they were then,
        whatever now lies beside the file.

    Raises:
      FileNotFoundError: no weights there; says where they are published.
      ValueError: the file does not fit the backbone, or does not say how its weights are to be run.
    """
    method, entry = get_method(config.method), lookup(config.backbone)
    network, tree, identity = entry.config, None, None
    skipped: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()
    options = config.model
    mean: tuple[float, ...] = entry.mean
    std: tuple[float, ...] = entry.std
    if method.pretrained:
        path = find_weights(config.backbone, config.weights or None)
        tree, report = load_weights(
            path,
            config.backbone,
            format=config.weights_format or 'auto',
            mean=options.mean or None,  # type: ignore[arg-type]
            std=options.std or None,  # type: ignore[arg-type]
            pool=options.pool,
            identity=recorded,
        )
        if report.unsettled:
            raise ValueError(report.unsettled)
        network, identity, skipped = report.config, report.identity, report.skipped
        notes = report.notes
        if options.norm == 'fresh':
            tree = fresh_norm(tree)
            notes = (*notes, "the file's final norm is replaced by a fresh one (model.norm)")
        mean, std = identity.mean, identity.std
    elif config.weights:
        raise ValueError(
            f'method {method.name} starts from random weights; leave --config.weights empty, or '
            "take method 'full' to start from the file"
        )
    network = _set(
        network,
        image_size=config.image_size or network.image_size,
        pool=options.pool or network.pool,
        dtype=options.dtype,
        scan=options.scan,
        drop_path_rate=options.drop_path_rate,
        patch_drop_rate=options.patch_drop_rate,
    )
    network = _set(network, remat=_plan(config, method, network, options.remat).remat)
    mean, std = (
        tuple(own or default) for own, default in ((options.mean, mean), (options.std, std))
    )
    return LoadedBackbone(network, tree, identity, mean, std, skipped, notes)  # type: ignore[arg-type]


def planned(backbone: LoadedBackbone, config: RunConfig) -> LoadedBackbone:
    """Returns a run's backbone with the memory that its blocks take for this number of prompts."""
    plan = _plan(config, get_method(config.method), backbone.config, config.model.remat)
    return replace(backbone, config=_set(backbone.config, remat=plan.remat))


def _set(network: Config, **values: Any) -> Config:
    """Returns the configuration with these values; one that its family has not must be unset."""
    known = {field.name for field in fields(network)}
    wrong = [name for name, value in values.items() if name not in known and value]
    if wrong:
        raise ValueError(
            f'a {network.family} has no {wrong[0]}; leave model.{wrong[0]} at its default, or take '
            f'another backbone (a ViT has it)'
        )
    return replace(network, **{name: v for name, v in values.items() if name in known})


def build_program(config: RunConfig, backbone: LoadedBackbone, num_classes: int, count: int) -> Program:
    """Builds the training program that starts from the image, for `count` training images."""
    method = get_method(config.method)
    classifier = build_classifier(
        backbone.config,
        method,
        num_classes,
        head_std=config.model.head_std,
        head_init=config.model.head_init,
        **config.tuner_options,
    )
    plan = _plan(config, method, backbone.config, backbone.config.remat)
    program = Program(
        classifier=classifier,
        optim=config.optim,
        epochs=config.epochs,
        steps_per_epoch=num_steps(count, config.batch_size, config.drop_last),
        augment=config.augment,
        image_size=backbone.config.image_size,
        mean=backbone.mean,
        std=backbone.std,
        transform=method.make_transform(**config.transform),
        skip_nonfinite=config.engine.on_nonfinite == 'skip',
        mesh=run_mesh(config),
        micro_batch=plan.micro_batch,
    )
    return as_masked(program, config.masked) if config.masked.active else program


def _plan(config: RunConfig, method: Method, network: Config, remat: str) -> StepPlan:
    mesh, engine = run_mesh(config), config.engine
    tuner = method.make_tuner(**config.tuner_options)
    return plan_step(
        network.spec(),
        tuner,
        config.batch_size,
        remat=remat,
        micro_batch=engine.micro_batch,
        memory_mb=engine.memory_mb,
        together=method.follows_batches(network) or tuner.mixes_images,
        devices=mesh.size if mesh else 1,
        bytes_per_value=2 if config.model.dtype == 'bfloat16' else 4,
    )


def run_mesh(config: RunConfig) -> Mesh | None:
    """Returns the devices of a run, None for a single one.

    Raises:
      ValueError: devices that are not there, or among which no batch can be shared evenly.
    """
    mesh = data_mesh(config.engine.num_devices, config.engine.fsdp)
    if config.batch_size % mesh.size:
        raise ValueError(
            f'batch_size {config.batch_size} is no multiple of the {mesh.size} devices; '
            'change it, or set engine.num_devices'
        )
    return mesh if mesh.size > 1 else None


def trains(method: Method, config: RunConfig, classifier: Classifier) -> Any:
    """Returns the predicate over whole paths that says which leaves train."""
    trained = method.predicate(classifier.tuner, classifier.spec)

    def predicate(path: str) -> bool:
        return trained(path) and (config.train_prompts or not path.startswith('tuner/'))

    return predicate


def make_job(
    config: RunConfig,
    program: Program,
    name: str,
    directory: Path,
    workdir: Path,
    hyper: Hyper,
    train: Data,
    val: Data | None,
    quiet: bool,
) -> Job:
    """Builds one training of a run; its checkpoints lie in `directory`, its rows in `workdir`."""
    engine = config.engine
    return Job(
        name=name,
        directory=directory,
        program=program,
        hyper=hyper,
        seed=config.seed,
        train=train,
        val=val,
        batch_size=config.batch_size,
        eval_batch_size=engine.eval_batch_size,
        eval_every=engine.eval_every,
        steps_per_call=engine.steps_per_call,
        checkpoint_seconds=engine.checkpoint_seconds,
        snapshot_every=engine.snapshot_every,
        min_converged=engine.min_converged,
        stop_unconverged=engine.on_unconverged == 'stop',
        metrics=workdir / 'metrics.jsonl',
        quiet=quiet,
    )


def init_params(config: RunConfig, backbone: LoadedBackbone, classifier: Classifier) -> tuple[Tree, Tree]:
    """Returns the initial (trainable, frozen) trees on the device, prompts not calibrated."""
    trained = trains(get_method(config.method), config, classifier)
    kept = partial(jnp.asarray, dtype=config.model.frozen_dtype)

    def put(path: str, leaf: Any) -> jax.Array:
        if isinstance(leaf, np.ndarray) and not leaf.flags.writeable:
            leaf = leaf.copy()  # of the file, whose pages a CPU device would take over as they are
        dtype = leaf.dtype if trained(f'backbone/{path}') else config.model.frozen_dtype
        return jax.block_until_ready(jnp.asarray(leaf, dtype))  # then the host's can go

    if backbone.tree is None:
        params = classifier.init(jax.random.fold_in(jax.random.key(config.seed), 1))
    else:
        adapt = family_of(backbone.config).adapt
        weights = adapt(backbone.tree, backbone.config, classifier.backbone.seams, put)
        params = {'backbone': weights, **init_added(config, classifier)}
    trainable, frozen = split(params, trained)
    return jax.tree.map(jnp.asarray, trainable), jax.tree.map(kept, frozen)


def init_added(config: RunConfig, classifier: Classifier) -> Tree:
    """Returns {'tuner', 'head'} as `init_params` makes them: the same seed, the same values."""
    return classifier.init_added(jax.random.fold_in(jax.random.key(config.seed), 1))


class Prefixed:
    """Splits as training wants them: images, or activations at the cut, computed once a split.

    Args:
      config: the run.
      program: starts from the image.
      frozen: the frozen tree, put on the program's mesh.
      num_images: images of all splits together.
    """

    def __init__(self, config: RunConfig, program: Program, frozen: Tree, num_images: int):
        method, classifier = get_method(config.method), program.classifier
        cut = method.cut(classifier.tuner, classifier.spec)
        self.config, self.program = config, program
        self.frozen = split_frozen(frozen, program.mesh)
        self.backbone = self.frozen.get('backbone', {})
        # A random stochastic depth inside the prefix would be a training-time change of it.
        allowed = bool(self.backbone) and not config.model.drop_path_rate
        budget = config.input.cache_mb if allowed else 0.0

        def place(wanted: Cut) -> Cut:
            return cached_cut(program, wanted, num_images, budget, self.backbone)

        self.cut = place(cut) if allowed else IMAGE
        # Training starts from the image, but the tuner wants the bare network's features too.
        wants = allowed and classifier.tuner.needs_raw() and self.cut == IMAGE
        self.with_raw = wants and place(FEATURES) == FEATURES

    def program_of(self, count: int, epochs: int) -> Program:
        """Returns the program that starts where the data stands, for `count` images an epoch."""
        steps = num_steps(count, self.config.batch_size, self.config.drop_last)
        check_warmup(self.config.optim, epochs, steps)
        return replace(self.program, start=self.cut, steps_per_epoch=steps, epochs=epochs)

    def __call__(self, data: Data) -> Data:
        """Returns the split's data at the cut, or its images with their raw features."""
        size = self.config.engine.eval_batch_size
        prefix = partial(frozen_prefix, self.program, backbone=self.backbone, batch_size=size)
        if self.cut != IMAGE:
            return Data(prefix(self.cut, images=data.data), data.labels)
        if self.with_raw and not hasattr(data.data, 'batches'):
            raw = prefix(FEATURES, images=data.data)
            return Data(WithRaw(data.data, raw), data.labels)
        return data

    def frozen_after(self) -> Tree:
        """Returns the frozen leaves that training from the cut still needs."""
        if self.cut < FEATURES:
            return self.frozen
        return {key: value for key, value in self.frozen.items() if key != 'backbone'}
