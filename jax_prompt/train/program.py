"""What a training program is made of, and the logits that it evaluates with.

`step.py` makes steps of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jax_prompt.core.spec import FEATURES, IMAGE, Cut
from jax_prompt.core.tree import Tree, merge
from jax_prompt.data.given import check_images
from jax_prompt.data.stored import WithRaw
from jax_prompt.data.transforms import Augment, centre, to_model
from jax_prompt.method import Transform
from jax_prompt.model import Classifier
from jax_prompt.train.mesh import in_context, shard_batch, unite
from jax_prompt.train.micro_batch import map_parts
from jax_prompt.train.optim import Hyper, Optim, make_optimizer


class TrainState(NamedTuple):
    """All that training changes.

    Attributes:
      step: optimizer steps done, int32 scalar.
      trainable: the trainable tree.
      opt_state: the optimizer's state.
      ema: moving average of the trainable tree ({} without one).
    """

    step: jax.Array
    trainable: Tree
    opt_state: Any
    ema: Tree


@dataclass(frozen=True)
class Program:
    """What a training program is made of; two equal programs compile to the same code.

    Attributes:
      classifier: the model.
      optim: the optimizer's recipe.
      epochs: length of the schedule.
      steps_per_epoch: optimizer steps an epoch.
      augment: what happens to a training image.
      image_size: side of the image that the model takes, in pixels.
      mean: per-channel mean that the weights want, images in [0, 1].
      std: per-channel standard deviation, likewise.
      start: where the stored data stands: the image, or the cut that the cache holds.
      transform: what the method wraps the optimizer in, if anything.
      skip_nonfinite: leave out a step whose loss or gradient is not finite, and count it.
      mesh: devices that share each batch; None for one device.
      micro_batch: most images whose gradient is formed at once; a larger batch is cut into equal
        parts and their gradients are summed (`train/micro_batch.py`). 0: the whole batch.
      loss: what a step minimises, a function like `step.label_loss`; None: that one.
    """

    classifier: Classifier
    optim: Optim
    epochs: int
    steps_per_epoch: int
    augment: Augment
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    start: Cut = IMAGE
    transform: Transform | None = None
    skip_nonfinite: bool = False
    mesh: Mesh | None = None
    micro_batch: int = 0
    loss: Callable[..., tuple[jax.Array, jax.Array]] | None = None

    @property
    def at_once(self) -> int:
        """Most images computed at once; 0: all, as from features on nothing is large."""
        return self.micro_batch if self.start < FEATURES else 0

    @property
    def num_devices(self) -> int:
        """Devices that share each batch."""
        return self.mesh.size if self.mesh else 1

    def optimizer(self, hyper: Hyper) -> optax.GradientTransformation:
        """Builds the optimizer for these hyperparameters."""
        return make_optimizer(self.optim, hyper, self.epochs, self.steps_per_epoch, self.transform)

    def init(self, trainable: Tree) -> TrainState:
        """Returns the state before the first step."""
        opt_state = self.optimizer(Hyper(0.0, 0.0, 0.0)).init(trainable)
        # A copy: the state is donated, and its average must not share buffers with the weights.
        ema = jax.tree.map(jnp.copy, trainable) if self.optim.ema_decay else {}
        return TrainState(jnp.zeros((), jnp.int32), trainable, opt_state, ema)

    def view(self, x: jax.Array) -> jax.Array:
        """Maps stored data to what the model takes, without augmentation."""
        if not self.start.at_image:
            return x
        return to_model(centre(x, self.image_size), self.mean, self.std)

    def weights(self, state: TrainState) -> Tree:
        """Returns the tree to evaluate: the average where one is kept, else the last weights."""
        return state.ema if self.optim.ema_decay else state.trainable

    def logits(self, trainable: Tree, frozen: Tree, x: jax.Array) -> jax.Array:
        """Computes evaluation logits [B, K].

        Args:
          trainable: what trains.
          frozen: the rest.
          x: images [B, S, S, 3], uint8 or floats in [0, 1]; from the cut on, what is stored there.

        Raises:
          ValueError: images of another shape, dtype or range.
        """
        params = merge(trainable, frozen)
        if self.start.at_image:
            check_images(split_raw(x)[0])

        def forward(part: Any) -> jax.Array:
            x, raw = split_raw(part)
            with in_context(self.mesh):
                return self.classifier.apply(params, self.view(x), start=self.start, raw=raw)

        return self.in_parts(forward, x)

    def in_parts(self, function: Callable[[Any], jax.Array], x: Any) -> jax.Array:
        """Applies a function of single images to a batch, as many at once as in training."""
        return map_parts(function, x, self.at_once, self.num_devices)


@partial(jax.jit, static_argnames=('program', 'members'))
def make_logits(program, trainable, frozen, x, lengths=None, members=False):
    """Computes `Program.logits`; jobs with equal programs share the compiled code.

    Args:
      program: the `Program`.
      trainable: what trains; leaves [S, ...] of members.
      frozen: the frozen tree.
      x: stored data, leaves [B, ...].
      lengths: as in `step.make_steps`.
      members: whether there are members.

    Returns:
      [B, K], or [B, S, K].
    """
    count = len(jax.tree.leaves(x)[0])
    x = shard_batch(x, program.mesh)

    def one(own, length):
        return program.logits(own, with_length(frozen, length), x)

    logits = (jax.vmap(one, out_axes=1) if members else one)(trainable, lengths)
    return unite(logits, program.mesh)[:count]


def with_length(frozen: Tree, length: jax.Array | None) -> Tree:
    """Returns the frozen tree with a member's number of prompts where its tuner looks for it."""
    return frozen if length is None else merge(frozen, {'tuner': {'shared': {'length': length}}})


def split_raw(x: Any) -> tuple[Any, Any]:
    """Splits stored data into what the model takes, and raw features or None."""
    return (x.images, x.raw) if isinstance(x, WithRaw) else (x, None)
