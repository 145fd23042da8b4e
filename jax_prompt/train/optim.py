"""Optimizers over the trainable tree: one chain a top-level group, one schedule for all.

Learning rate and weight decays are traced values (`Hyper`), not constants. So runs that differ only
in them share one compiled program: in a search one after the other, or together under `vmap`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_prompt.core.ranges import at_least, check_values, share
from jax_prompt.core.tree import EXEMPT, Tree, flatten, is_statistic, merge, split, unflatten
from jax_prompt.method import Transform


class Hyper(NamedTuple):
    """What a search varies, as float32 scalars (or [S] for a population).

    Attributes:
      lr: peak learning rate.
      weight_decay: of the tuner's and the backbone's trained leaves.
      head_weight_decay: of the head's kernel.
    """

    lr: jax.Array | float
    weight_decay: jax.Array | float
    head_weight_decay: jax.Array | float


@dataclass(frozen=True)
class Optim:
    """How gradients become updates.

    Attributes:
      name: 'sgd' (with momentum; weight decay is added to the gradient, as torch does) or 'adamw'
        (weight decay is decoupled).
      momentum: momentum of SGD.
      b1: decay of Adam's first moment.
      b2: decay of Adam's second moment.
      warmup_epochs: number of epochs in which the learning rate rises linearly from 0.
      min_lr: learning rate at the end of the cosine.
      per_epoch: True moves the schedule once an epoch, False at every step. VPT's code moves it
        once an epoch, so its first epoch runs at lr 0.
      clip_norm: largest global norm of the gradient of the trained parameters; 0: no clipping.
      ema_decay: decay of a moving average of the weights, which is then evaluated instead of the
        last weights; 0: no average.
      label_smoothing: share of the target that is spread over all classes.
      decay_all: True lets weight decay act on all trained leaves but the head's bias, as VPT's code
        does; False leaves out biases, norms, scales and positions.
    """

    name: str = 'adamw'
    momentum: float = share(0.9)
    b1: float = share(0.9)
    b2: float = share(0.999)
    warmup_epochs: float = at_least(0.0)
    min_lr: float = at_least(0.0)
    per_epoch: bool = False
    clip_norm: float = at_least(0.0)
    ema_decay: float = share(0.0)
    label_smoothing: float = share(0.0)
    decay_all: bool = False

    def __post_init__(self):
        if self.name not in ('sgd', 'adamw'):
            raise ValueError(f"optim.name is {self.name!r}; allowed: 'sgd', 'adamw'")
        check_values(self, 'optim.')


def check_warmup(optim: Optim, epochs: int, steps_per_epoch: int = 0) -> None:
    """Checks that a training outlasts its warm-up: it would train next to nothing otherwise.

    Args:
      optim: the recipe.
      epochs: length of the training.
      steps_per_epoch: steps of an epoch; 0: not known yet.

    Raises:
      ValueError: no step runs at the full learning rate.
    """
    if not optim.warmup_epochs:
        return
    steps = steps_per_epoch
    if optim.per_epoch and steps:
        outlasts = epochs - 1 >= optim.warmup_epochs
    elif steps:
        outlasts = (epochs * steps - 1) / steps >= optim.warmup_epochs
    else:
        outlasts = epochs > optim.warmup_epochs
    if not outlasts:
        length = f'{epochs} epochs' + (f' of {steps} steps' if steps else '')
        raise ValueError(
            f'optim.warmup_epochs is {optim.warmup_epochs:g} and training lasts {length}: no step '
            'would reach the learning rate; take fewer warm-up epochs (0: none) or more epochs'
            + (', or a smaller batch_size' if steps == 1 else '')
        )


def learning_rate(
    step: jax.Array, lr: jax.Array | float, optim: Optim, epochs: int, steps_per_epoch: int
) -> jax.Array:
    """Returns the learning rate of a step: linear warm-up from 0, then a cosine to `min_lr`."""
    epoch = step / steps_per_epoch
    if optim.per_epoch:
        epoch = jnp.floor(epoch)
    warm = epoch / max(optim.warmup_epochs, 1e-9)
    share = (epoch - optim.warmup_epochs) / max(epochs - optim.warmup_epochs, 1e-9)
    cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(share, 0.0, 1.0)))
    after = optim.min_lr + (lr - optim.min_lr) * cosine
    return jnp.where(epoch < optim.warmup_epochs, lr * warm, after)


def make_optimizer(
    optim: Optim,
    hyper: Hyper,
    epochs: int,
    steps_per_epoch: int,
    transform: Transform | None = None,
) -> optax.GradientTransformation:
    """Builds the optax transformation of the trainable tree {'backbone'?, 'tuner'?, 'head'?}.

    Running statistics of batch norms in it (`core.tree.is_statistic`) take the step that stands in
    place of their gradients (`nn.batch_norm`) as it is; nothing else here sees them.

    Args:
      optim: the recipe.
      hyper: learning rate and weight decays, possibly traced.
      epochs: length of the schedule.
      steps_per_epoch: optimizer steps an epoch.
      transform: wraps the whole optimizer.
    """

    def group(decay: jax.Array | float, every: bool) -> optax.GradientTransformation:
        decayed = optax.add_decayed_weights(decay, mask=None if every else _decays)
        if optim.name == 'sgd':
            return optax.chain(decayed, optax.trace(optim.momentum))
        return optax.chain(optax.scale_by_adam(optim.b1, optim.b2), decayed)

    groups = {
        'tuner': group(hyper.weight_decay, optim.decay_all),
        'backbone': group(hyper.weight_decay, optim.decay_all),
        'head': group(hyper.head_weight_decay, False),
    }

    def rate(step: jax.Array) -> jax.Array:
        return -learning_rate(step, hyper.lr, optim, epochs, steps_per_epoch)

    optimizer = optax.chain(
        optax.clip_by_global_norm(optim.clip_norm) if optim.clip_norm else optax.identity(),
        optax.multi_transform(groups, _labels),
        optax.scale_by_schedule(rate),
    )
    if transform:
        optimizer = transform.wrap(optimizer, lambda step: -rate(step))
    return _beside_statistics(optimizer)


def weight_gradients(grads: Tree) -> Tree:
    """Returns the gradients without what stands in the place of running statistics' gradients."""
    return split(grads, is_statistic)[1]


def _beside_statistics(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns the optimizer, kept from running statistics, which go down by what is given."""

    def init(params: Tree) -> optax.OptState:
        seen, weights = split(params, is_statistic)
        return optimizer.init(weights if seen else params)

    def update(grads: Tree, state: optax.OptState, params: Tree | None = None):
        seen, own = split(grads, is_statistic)
        if not seen:
            return optimizer.update(grads, state, params)
        weights = None if params is None else split(params, is_statistic)[1]
        updates, state = optimizer.update(own, state, weights)
        return merge(updates, jax.tree.map(jnp.negative, seen)), state

    return optax.GradientTransformation(init, update)


def _labels(params: Tree) -> Tree:
    """Labels each leaf by its top-level key."""
    return {key: jax.tree.map(lambda _, k=key: k, value) for key, value in params.items()}


def _decays(params: Tree) -> Tree:
    """Marks what weight decay acts on: kernels and prompts; not biases, norms, scales."""
    flat = flatten(params)
    return unflatten({path: path.rsplit('/', 1)[-1] not in EXEMPT for path in flat})
