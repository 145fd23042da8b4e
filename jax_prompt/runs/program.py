"""The training program of a run, and the initial values of what it trains."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jax_prompt.backbones.architectures import Config
from jax_prompt.backbones.families import family_of
from jax_prompt.core.tree import Tree, split
from jax_prompt.method import Method
from jax_prompt.methods import get_method
from jax_prompt.model import Classifier, build_classifier
from jax_prompt.runs.backbone import LoadedBackbone, with_settings
from jax_prompt.runs.config import RunConfig
from jax_prompt.train.masked import as_masked
from jax_prompt.train.members import num_steps
from jax_prompt.train.memory import StepPlan, plan_step
from jax_prompt.train.mesh import data_mesh
from jax_prompt.train.program import Program


def build_program(
    config: RunConfig,
    backbone: LoadedBackbone,
    num_classes: int,
    count: int,
    devices: Sequence[Any] | None = None,
) -> Program:
    """Builds the training program that starts from the image.

    Args:
      config: the run; its number of prompts counts in the memory of a step.
      backbone: the backbone; its weights are not needed.
      num_classes: K.
      count: training images.
      devices: for which devices; None: those that are there.
    """
    method = get_method(config.method)
    plan = _plan(config, method, backbone.config, devices)
    network = with_settings(backbone.config, remat=plan.remat)
    classifier = build_classifier(
        network,
        method,
        num_classes,
        head_std=config.model.head_std,
        head_init=config.model.head_init,
        **config.tuner_options,
    )
    program = Program(
        classifier=classifier,
        optim=config.optim,
        epochs=config.epochs,
        steps_per_epoch=num_steps(count, config.batch_size, config.drop_last),
        augment=config.augment,
        image_size=network.image_size,
        mean=backbone.mean,
        std=backbone.std,
        transform=method.make_transform(**config.transform),
        skip_nonfinite=config.engine.on_nonfinite == 'skip',
        mesh=run_mesh(config, devices),
        micro_batch=plan.micro_batch,
    )
    return as_masked(program, config.masked) if config.masked.active else program


def _plan(
    config: RunConfig, method: Method, network: Config, devices: Sequence[Any] | None
) -> StepPlan:
    """Returns in how many parts a step is computed, and what its backward pass keeps."""
    mesh, engine = run_mesh(config, devices), config.engine
    tuner, spec = method.make_tuner(**config.tuner_options), network.spec()
    return plan_step(
        spec,
        tuner,
        config.batch_size,
        remat=config.model.remat,
        micro_batch=engine.micro_batch,
        memory_mb=engine.memory_mb,
        together=method.follows_batches(network) or tuner.facts(spec).mixes_images,
        devices=mesh.size if mesh else 1,
        fsdp=engine.fsdp,
        bytes_per_value=2 if config.model.dtype == 'bfloat16' else 4,
        device=devices[0] if devices else None,
    )


def run_mesh(config: RunConfig, devices: Sequence[Any] | None = None) -> Mesh | None:
    """Returns the devices of a run, None for a single one.

    Args:
      config: the run.
      devices: as in `build_program`.

    Raises:
      ValueError: devices that are not there, or among which no batch can be shared evenly.
    """
    mesh = data_mesh(config.engine.num_devices, config.engine.fsdp, devices)
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


def init_params(
    config: RunConfig, backbone: LoadedBackbone, classifier: Classifier
) -> tuple[Tree, Tree]:
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
