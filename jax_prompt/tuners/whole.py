"""Whole: every weight of the backbone trains (full tuning, and training from scratch)."""

from dataclasses import dataclass

from jax_prompt.core.spec import BackboneSpec
from jax_prompt.core.tuner import Tuner


@dataclass(frozen=True)
class Whole(Tuner):
    """Adds nothing; every leaf trains."""

    def trains(self, path: str, spec: BackboneSpec) -> bool:
        """Every leaf of the backbone's tree trains."""
        del path, spec
        return True
