"""The project's side of `speed.py step`: a method's training through the engine's own step."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from bench_flops import work

from jax_prompt.backbones.architectures import Config
from jax_prompt.backbones.families import family_of
from jax_prompt.core.spec import FEATURES
from jax_prompt.core.tree import split, unflatten
from jax_prompt.data.stored import WithRaw
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier
from jax_prompt.runs.prefix import frozen_prefix
from jax_prompt.train.memory import plan_step
from jax_prompt.train.optim import Hyper, Optim
from jax_prompt.train.program import Program
from jax_prompt.train.step import cross_entropy, make_step


class JaxSide:
    """Trains a method's own parameters and the head on one batch by the project's own step.

    As in a run, features of the raw image (LION) are computed once, before the first step.

    Args:
      config: the backbone's configuration.
      problem: arrays of `bench_problem.make_problem`.
      settings: method, options, lr, weight_decay, momentum, dtype, precision, micro_batch.
    """

    def __init__(self, config: Config, problem: Mapping[str, np.ndarray], settings: dict):
        jax.config.update('jax_default_matmul_precision', settings['precision'])
        arrays = unflatten({k: v for k, v in problem.items() if '/' in k})
        config, method = replace(config, dtype=settings['dtype']), get_method(settings['method'])
        classes, size = len(problem['head/bias']), len(problem['labels'])
        model = build_classifier(config, method, classes, **settings['options'])
        adapt = family_of(config).adapt
        params = {**arrays, 'backbone': adapt(arrays['backbone'], config, model.backbone.seams)}
        plan = plan_step(
            model.spec,
            model.tuner,
            size,
            remat=config.remat,
            micro_batch=settings['micro_batch'],
            together=model.mixes_examples,
        )
        self.micro_batch = plan.micro_batch or size
        trainable, frozen = split(params, method.predicate(model.tuner, model.spec))
        self.frozen = jax.device_put(frozen)
        # So many epochs that the cosine has not moved at the steps that are run.
        program = Program(
            model,
            Optim('sgd', momentum=settings['momentum']),
            epochs=10**6,
            steps_per_epoch=100,
            augment=Augment(),
            image_size=config.image_size,
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            transform=method.make_transform(),
            micro_batch=plan.micro_batch,
        )
        images: Any = jnp.asarray(problem['images'])
        if model.facts.needs_raw:
            backbone = self.frozen['backbone']
            raw = frozen_prefix(program, FEATURES, backbone, problem['images'], size)
            images = WithRaw(images, jnp.asarray(raw))
        decay = settings['weight_decay']
        self.state = program.init(jax.tree.map(jnp.array, trainable))
        self.batch = (
            images,
            jnp.asarray(problem['labels']),
            jnp.ones(size),
            Hyper(*map(jnp.float32, (settings['lr'], decay, decay))),
            jax.random.key(0),
        )
        self.program, self.loss = program, jnp.zeros(())
        self.metrics: dict[str, jax.Array] = {}
        self.compiled: Any = None
        self.work: float | None = None

    def train_step(self) -> Any:
        """Takes one step and returns the loss before it, a scalar that is not yet waited for."""
        if self.compiled is None:
            self._compile(make_step.trace(self.program, self.state, self.frozen, *self.batch))
        self.state, self.metrics = self.compiled(self.state, self.frozen, *self.batch)
        return self.metrics['loss']

    def evaluate(self) -> Any:
        """Runs the model on the batch and returns the loss, not yet waited for."""
        if self.compiled is None:
            program, (images, labels, *_) = self.program, self.batch

            def loss(trainable: Any, frozen: Any, images: Any) -> jax.Array:
                logits = program.logits(trainable, frozen, images)
                return jnp.mean(cross_entropy(logits, labels))

            self._compile(jax.jit(loss).trace(self.state.trainable, self.frozen, images))
        self.loss = self.compiled(self.state.trainable, self.frozen, self.batch[0])
        return self.loss

    def _compile(self, traced: Any) -> None:
        """Compiles what is traced, and counts its work."""
        self.work = work(traced.jaxpr.jaxpr)
        self.compiled = traced.lower().compile()

    def wait(self) -> None:
        """Waits until the device has done all steps."""
        jax.block_until_ready((self.state, self.loss))

    def facts(self) -> dict:
        """Returns versions, device, solver steps and XLA's figure of scratch memory in MB."""
        device = jax.devices()[0]
        facts = {
            'version': f'jax {jax.__version__}, jaxlib {jaxlib.__version__}',
            'device': device.device_kind,
            'micro_batch': self.micro_batch,
            'work': self.work,
            'scratch_mb': self.compiled.memory_analysis().temp_size_in_bytes / 1e6,
            **{k: float(v) for k, v in self.metrics.items() if k.endswith('_steps')},
        }
        if device.platform != 'cpu':
            facts['device_peak_mb'] = device.memory_stats()['peak_bytes_in_use'] / 1e6
        return facts
