"""What a run would take on devices that may not be there: memory and collectives, compiled.

The very programs of a run are lowered for shapes in place of arrays and compiled for the devices.
Nothing is computed, and no weights and no images are read. The compiler says what each program
needs, and its text holds the collective operations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from jax_prompt.calibrate.tokens import BackboneTokens
from jax_prompt.core.devices import device_bytes
from jax_prompt.core.spec import FEATURES, IMAGE
from jax_prompt.core.tree import Tree
from jax_prompt.data.stored import WithRaw
from jax_prompt.methods import get_method
from jax_prompt.runs.backbone import LoadedBackbone, unloaded_backbone
from jax_prompt.runs.collectives import collectives
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.inputs import store_size
from jax_prompt.runs.need import Need, on_one, used
from jax_prompt.runs.prefix import make_prefix
from jax_prompt.runs.program import build_program, init_params
from jax_prompt.train.mesh import batch_sharding, frozen_shardings
from jax_prompt.train.optim import Hyper
from jax_prompt.train.program import Program, make_logits
from jax_prompt.train.step import make_step


class Size(NamedTuple):
    """How large a task is: K classes and the images of all splits together."""

    num_classes: int
    num_images: int


@dataclass(frozen=True)
class Plan:
    """What a run would take.

    Attributes:
      config: the run.
      program: its program, from where training starts.
      devices: the devices of the run.
      has: memory of each, in bytes; 0: not known.
      step: a training step.
      evaluation: a batch of evaluation.
      calibration: a batch of images on the way to prototypes, None where there are none.
    """

    config: RunConfig
    program: Program
    devices: Sequence[Any]
    has: int
    step: Need
    evaluation: Need
    calibration: Need | None = None

    @property
    def needs(self) -> list[Need]:
        """What each of the programs needs."""
        return [need for need in (self.step, self.evaluation, self.calibration) if need]

    @property
    def fits(self) -> bool:
        """Whether each device holds what it has to, as far as its memory is known."""
        return not any(need.too_much or (self.has and need.total > self.has) for need in self.needs)


def make_plan(config: RunConfig, size: Size, devices: Sequence[Any] | None = None) -> Plan:
    """Compiles what a run would run.

    Args:
      config: the resolved configuration.
      size: of its task.
      devices: for which devices; None: those that are there.

    Raises:
      ValueError: the devices can't share the batch, or the configuration does not fit itself.
    """
    devices = list(jax.devices() if devices is None else devices)
    backbone = unloaded_backbone(config)
    program = build_program(config, backbone, size.num_classes, size.num_images, devices)
    used = devices[: program.num_devices]
    shapes = Shapes(config, program, used[0], size, backbone)
    step = shapes.need(make_step, shapes.step())
    evaluation = shapes.need(make_logits, shapes.logits())
    calibration = shapes.calibration() if get_method(config.method).calibrated else None
    has = device_bytes(used[0])
    return Plan(config, shapes.program, used, has, step, evaluation, calibration)


class Shapes:
    """The arguments of a run's programs as shapes, laid out on its devices.

    Args:
      config: the run.
      program: its program, from the image.
      device: one of its devices.
      size: of its task.
      backbone: without weights.
    """

    def __init__(
        self,
        config: RunConfig,
        program: Program,
        device: Any,
        size: Size,
        backbone: LoadedBackbone,
    ):
        self.config, self.size, self.mesh = config, size, program.mesh
        self.one = SingleDeviceSharding(device)
        self.whole = NamedSharding(self.mesh, PartitionSpec()) if self.mesh else self.one
        self.split = batch_sharding(self.mesh) if self.mesh else self.one
        # Abstract values alone: an array made here would lie on a device that is there.
        trees = jax.eval_shape(partial(init_params, config, backbone, program.classifier))
        self.trainable, frozen = self._laid(trees[0]), trees[1]
        prefix = make_prefix(config, program, frozen, size.num_images)
        self.program, self.with_raw = replace(program, start=prefix.cut), prefix.with_raw
        self.bare = frozen.get('backbone', {})
        self.frozen = self._laid_frozen(prefix.frozen_after(frozen))

    def step(self) -> tuple[Any, ...]:
        """Returns the arguments of `make_step`."""
        state = self._laid(jax.eval_shape(self.program.init, self.trainable))
        size = self.config.batch_size
        x, labels = self.images(size), self._array((size,), jnp.int32, self.split)
        rows = self._array((size,), jnp.float32, self.split)
        hyper: Any = Hyper(*(self._array((), jnp.float32, self.whole) for _ in range(3)))
        key = self._laid(jax.eval_shape(lambda: jax.random.key(0)))
        return self.program, state, self.frozen, x, labels, rows, hyper, key, None

    def logits(self) -> tuple[Any, ...]:
        """Returns the arguments of `make_logits`."""
        count = -(-self.config.engine.eval_batch_size // self.program.num_devices)
        x = self.images(count * self.program.num_devices)
        return self.program, self.trainable, self.frozen, x

    def images(self, count: int) -> Any:
        """Returns stored data of `count` images, as it enters a program."""
        program, side = self.program, store_size(self.config, self.program.image_size)
        image = self._array((count, side, side, 3), jnp.uint8, self.split)
        at_image = jax.ShapeDtypeStruct((count, *2 * (program.image_size,), 3), jnp.float32)

        def at(cut: Any) -> Any:
            out = jax.eval_shape(partial(program.classifier.prefix, cut=cut), self.bare, at_image)
            return self._array(out.shape, jnp.float32, self.split)

        if program.start != IMAGE:
            return at(program.start)
        return WithRaw(image, at(FEATURES)) if self.with_raw else image

    def need(self, function: Any, args: tuple[Any, ...]) -> Need:
        """Compiles a program and reads what it needs."""
        held = self._held(args)
        try:
            compiled = function.lower(*args).compile()
        except jax.errors.JaxRuntimeError as error:
            if 'RESOURCE_EXHAUSTED' not in str(error):
                raise
            scratch = max(used(str(error)) - sum(held), 0)
            return Need(*held, scratch, ' '.join(str(error).split())[:200])
        return self.need_of(compiled, args)

    def need_of(self, compiled: Any, args: tuple[Any, ...]) -> Need:
        """Reads what a compiled program needs with these arguments."""
        memory, text = compiled.memory_analysis(), compiled.as_text()
        scratch = memory.temp_size_in_bytes
        scratch += max(memory.output_size_in_bytes - memory.alias_size_in_bytes, 0)
        return Need(*self._held(args), scratch, '', tuple(collectives(text)))

    def calibration(self) -> Need:
        """Compiles the way of a batch to the tokens of a block, of the first stage if any.

        It runs on one device, before weights are split and before the optimizer has a state. What
        k-means holds of many batches is bounded by `calibration.budget_mb` and not counted.
        """

        def source(params: Any) -> BackboneTokens:
            whole = BackboneTokens(self.program, params)
            return next(iter(whole.stages().values()), whole)

        def laid(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: self._array(leaf.shape, leaf.dtype, self.one), tree)

        params, side = laid(self.bare), store_size(self.config, self.program.image_size)
        shape = (self.config.calibration.batch_size, side, side, 3)
        images = self._array(shape, jnp.uint8, self.one)
        embed = jax.jit(lambda params, x: source(params).embed(x))
        advance = jax.jit(lambda params, x: source(params).advance(x, 0))
        tokens = laid(jax.eval_shape(embed, params, images))
        scratch = 0
        for function, x in ((embed, images), (advance, tokens)):
            memory: Any = function.lower(params, x).compile().memory_analysis()
            own = memory.temp_size_in_bytes + memory.output_size_in_bytes
            scratch = max(scratch, own + (on_one(x) if x is tokens else 0))
        held = on_one(images) + self._resident(images)
        return Need(on_one(params), on_one(self.trainable), held, scratch)

    def _held(self, args: tuple[Any, ...]) -> tuple[int, int, int]:
        """Returns the bytes on one device of frozen weights, of what trains, and of images."""
        _, state, frozen, *batch = args
        return on_one(frozen), on_one(state), on_one(batch[:1]) + self._resident(batch[0])

    def _resident(self, images: Any) -> int:
        """Returns the bytes of a task's stored images where they stay on the device, whole."""
        one = sum(leaf.size * leaf.dtype.itemsize // len(leaf) for leaf in jax.tree.leaves(images))
        held = one * self.size.num_images
        return held if held / 1e6 <= self.config.input.budget_mb else 0

    def _laid(self, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: self._array(leaf.shape, leaf.dtype, self.whole), tree)

    def _laid_frozen(self, frozen: Tree) -> Tree:
        if self.mesh is None:
            return self._laid(frozen)
        return jax.tree.map(
            lambda leaf, where: self._array(leaf.shape, leaf.dtype, where),
            frozen,
            frozen_shardings(frozen, self.mesh),
        )

    def _array(self, shape: tuple[int, ...], dtype: Any, where: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def smaller(plan: Plan) -> Mapping[str, RunConfig]:
    """Returns what may make a run fit, by the flags that ask for it; each goes on from the last.

    What changes no result comes first; `batch_size` is the last.
    """
    config, program, mesh = plan.config, plan.program, plan.program.mesh
    found: dict[str, RunConfig] = {}
    flags = ''

    def add(flag: str, changed: RunConfig) -> None:
        nonlocal flags, config
        flags, config = f'{flags} --config.{flag}'.strip(), changed
        found[flags] = changed

    if getattr(program.classifier.backbone.config, 'remat', 'full') != 'full':
        add('model.remat=full', replace(config, model=replace(config.model, remat='full')))
    least = mesh.size if mesh else 1
    if not program.classifier.mixes_examples and program.at_once != least:
        few = max(config.batch_size // 8, least)
        engine = replace(config.engine, micro_batch=few, eval_batch_size=few)
        add(
            f'engine.micro_batch={few} --config.engine.eval_batch_size={few}',
            replace(config, engine=engine),
        )
    if config.model.frozen_dtype != 'bfloat16':
        model = replace(config.model, frozen_dtype='bfloat16')
        add('model.frozen_dtype=bfloat16', replace(config, model=model))
    if mesh and config.engine.fsdp == 1:
        whole = min(mesh.size, 8)
        engine = replace(config.engine, fsdp=whole)
        add(f'engine.fsdp={whole}', replace(config, engine=engine))
    return found
