"""Method: what the engine needs to know about a way to tune, and not how it works.

A method answers three questions: which tuner acts, whether the tuner is calibrated from the task's
own data before training, and what wraps the optimizer. What the tuner adds, which backbone leaves
train and where training starts, the tuner says itself (`core.tuner`).
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import jax
import optax

from jax_prompt.core.spec import BackboneSpec
from jax_prompt.core.tree import is_statistic
from jax_prompt.core.tuner import Tuner


class Transform(Protocol):
    """What a method wraps the optimizer in."""

    def wrap(
        self, optimizer: optax.GradientTransformation, rate: Callable[[jax.Array], jax.Array]
    ) -> optax.GradientTransformation:
        """Returns the optimizer to use; `rate` gives the learning rate of a step, positive."""
        ...


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    Attributes:
      name: its name in configs.
      summary: what it trains, in a line.
      tuner: the kind of its tuner, a dataclass of options.
      fixed: options that define this method and can't be set.
      calibrated: whether the prompts start from the task's own tokens.
      pretrained: whether the backbone starts from pretrained weights.
      transform: makes the wrapper of the optimizer from its options; None: there is none.
      batch_statistics: True lets batch norms normalise by the batch in training and update their
        running statistics. False keeps them constant.
    """

    name: str
    summary: str
    tuner: type[Tuner] = Tuner
    fixed: Mapping[str, Any] = field(default_factory=dict)
    calibrated: bool = False
    pretrained: bool = True
    transform: Callable[..., Transform] | None = None
    batch_statistics: bool = False

    def predicate(self, tuner: Tuner, spec: BackboneSpec) -> Callable[[str], bool]:
        """Returns whether a leaf trains, from its path in {'backbone', 'tuner', 'head'}."""

        def trained(path: str) -> bool:
            group, _, rest = path.partition('/')
            if group == 'backbone' and is_statistic(rest) and not self.batch_statistics:
                return False
            return group != 'backbone' or tuner.trains(rest, spec)

        return trained

    def follows_batches(self, network: object) -> bool:
        """Whether a network, by its configuration, has norms that follow the batch in training."""
        return self.batch_statistics and hasattr(network, 'batch_statistics')

    def options(self) -> dict[str, Any]:
        """Returns the tuner's options that a config may set, with their defaults."""
        return {
            f.name: f.default
            for f in fields(self.tuner)  # type: ignore[arg-type]
            if f.name not in self.fixed
        }

    @property
    def has_prompts(self) -> bool:
        """Whether the tuner has a number of prompts."""
        return 'num_prompts' in self.options()

    def with_prompts(self, options: Mapping[str, Any], num_prompts: int) -> dict[str, Any]:
        """Returns the options with the number of prompts among them, if this method has prompts."""
        added = {'num_prompts': num_prompts} if 'num_prompts' in self.options() else {}
        return {**options, **added}

    def settable(self) -> dict[str, Any]:
        """Returns `options` without the number of prompts, which configs hold at their top."""
        return {name: value for name, value in self.options().items() if name != 'num_prompts'}

    def make_tuner(self, **options: Any) -> Tuner:
        """Makes the tuner.

        Raises:
          ValueError: an option that this method has not.
        """
        self._check(options, self.options(), 'option')
        return self.tuner(**self.fixed, **options)

    def transform_options(self) -> dict[str, Any]:
        """Returns the options of what wraps the optimizer, with their defaults."""
        if self.transform is None:
            return {}
        return {f.name: f.default for f in fields(self.transform)}  # type: ignore[arg-type]

    def make_transform(self, **options: Any) -> Transform | None:
        """Makes what wraps the optimizer, or None.

        Raises:
          ValueError: an option that this method has not.
        """
        self._check(options, self.transform_options(), 'transform option')
        return self.transform(**options) if self.transform else None

    def _check(self, options: Mapping[str, Any], allowed: Mapping[str, Any], what: str) -> None:
        for name in options:
            if name not in allowed:
                raise ValueError(
                    f'method {self.name} has no {what} {name!r}; allowed: {sorted(allowed)}'
                    + suggestion(name, allowed)
                )


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """Returns '; did you mean ...?' where a name is close to an allowed one, else ''."""
    near = difflib.get_close_matches(name, list(allowed), n=1)
    return f'; did you mean {near[0]!r}?' if near else ''
