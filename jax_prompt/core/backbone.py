"""Backbone: what model and engine ask of a network from images to features."""

from typing import Any, Protocol


class Backbone(Protocol):
    """A Flax module that calls a tuner's hooks, and can run any stretch of its way.

    Its call takes (x, tuner, tuner_params, *, key, train, start, stop, bare_patches): `start` and
    `stop` are a `Cut` (see there), x the images or what enters block `start`.
    """

    @property
    def config(self) -> Any:
        """Its configuration."""

    @property
    def seams(self) -> tuple[int, ...]:
        """Layers at which its stacked layers are cut into segments."""

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns {'params': tree} with random parameters."""

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs it with {'params': tree}."""
