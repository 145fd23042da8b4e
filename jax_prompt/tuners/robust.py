"""Robust training: parameters that matter follow the gradient, the others shrink.

Wang et al., "LION: Implicit Vision Prompt Tuning" (AAAI 2024), section 3.3. A parameter's
criticality is |gradient x value| (eq. 7); those at or above a threshold are crucial (eq. 8) and
take the optimizer's update (eq. 10), the others (eq. 9) move towards 0 by lr x sign (eq. 11). The
threshold is set over all kernels and prompts together; biases, gates, norms and scales always
train.

Departures, each an option where that makes sense:

- `tau` is a quantile, the share of parameters that count as non-crucial. The paper's .2 to .8 can't
  be absolute values of products of gradients. 'absolute' and 'max' (a share of the largest) exist.
- With eq. 11 a weight oscillates by lr around 0; here it stops at 0. At lr, a whole training would
  remove every weight, so `shrink` scales the step.
- The optimizer sees all raw gradients, so its moments are those of ordinary training. Weight decay
  does not act on parameters that shrink.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_prompt.core.ranges import at_least, check_values, share
from jax_prompt.core.tree import EXEMPT, Tree, flatten, unflatten

THRESHOLDS = ('quantile', 'absolute', 'max')


class RobustState(NamedTuple):
    """State of robust training.

    Attributes:
      inner: the optimizer's own.
      step: steps done, int32 scalar.
      criticality: moving average of it ({} without one).
      critical_share: share of the regulated parameters that were crucial in the last step.
    """

    inner: optax.OptState
    step: jax.Array
    criticality: Tree
    critical_share: jax.Array


@dataclass(frozen=True)
class RobustTraining:
    """Options of robust training.

    Attributes:
      tau: the threshold of criticality; 0: robust training is off and all parameters train. The
        paper takes .4.
      threshold: how tau is meant: 'quantile', the share of parameters that count as non-crucial;
        'absolute', a value; or 'max', a share of the largest criticality.
      shrink: non-crucial parameters move towards 0 by lr x shrink; the paper takes 1.
      warmup_steps: number of first steps in which all parameters train.
      ema: decay of a moving average of the criticality; 0: each step takes its own.
    """

    tau: float = at_least(0.0)
    threshold: str = 'quantile'
    shrink: float = at_least(0.1)
    warmup_steps: int = at_least(0, 0, 10**9)
    ema: float = share(0.0)

    def __post_init__(self):
        check_values(self)
        if self.threshold not in THRESHOLDS:
            raise ValueError(f'threshold is {self.threshold!r}; allowed: {", ".join(THRESHOLDS)}')
        top = float('inf') if self.threshold == 'absolute' else 1.0
        if not 0.0 <= self.tau < top:
            raise ValueError(f'tau is {self.tau}; allowed for {self.threshold}: [0, {top})')

    def wrap(
        self, optimizer: optax.GradientTransformation, rate: Callable[[jax.Array], jax.Array]
    ) -> optax.GradientTransformation:
        """Returns the optimizer under robust training; itself where tau is 0.

        Args:
          optimizer: makes the whole update, learning rate and weight decay included.
          rate: the learning rate of a step, positive.
        """
        if not self.tau:
            return optimizer

        def init(params: Tree) -> RobustState:
            kept = jax.tree.map(jnp.zeros_like, _regulated(params)) if self.ema else {}
            zero = jnp.zeros((), jnp.int32)
            return RobustState(optimizer.init(params), zero, kept, jnp.ones(()))

        def update(grads: Tree, state: RobustState, params: Tree | None = None):
            if params is None:
                raise ValueError(
                    'robust training needs the parameters: update(grads, state, params)'
                )
            updates, inner = optimizer.update(grads, state.inner, params)
            values, slopes = _regulated(params), _regulated(grads)
            critical = jax.tree.map(lambda g, v: jnp.abs(g * v), slopes, values)
            if self.ema:
                critical = optax.incremental_update(critical, state.criticality, 1.0 - self.ema)
            bar = self._bar(critical)
            warm = state.step < self.warmup_steps
            crucial = {path: warm | (c >= bar) for path, c in critical.items()}
            step = rate(state.step) * self.shrink
            flat = flatten(updates)
            for path, value in values.items():
                towards = -jnp.sign(value) * jnp.minimum(jnp.abs(value), step)
                flat[path] = jnp.where(crucial[path], flat[path], towards.astype(flat[path].dtype))
            share = sum(jnp.sum(c) for c in crucial.values()) / sum(
                c.size for c in crucial.values()
            )
            kept = critical if self.ema else {}
            return unflatten(flat), RobustState(inner, state.step + 1, kept, share)

        return optax.GradientTransformation(init, update)

    def _bar(self, critical: Tree) -> jax.Array:
        """Returns the criticality from which a parameter is crucial."""
        if self.threshold == 'absolute':
            return jnp.asarray(self.tau)
        together = jnp.concatenate([c.reshape(-1) for c in critical.values()])
        if self.threshold == 'max':
            return self.tau * jnp.max(together)
        # The element below which a share tau lies: an exact count, without interpolation.
        return jnp.sort(together)[min(round(self.tau * together.size), together.size - 1)]


def _regulated(tree: Tree) -> Tree:
    """Returns {path: leaf} of the kernels and prompts of a tree."""
    flat = flatten(tree)
    return {path: leaf for path, leaf in flat.items() if path.rsplit('/', 1)[-1] not in EXEMPT}
