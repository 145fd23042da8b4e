"""The cut of a run: what comes before it is computed once an image (`train/cache.py`)."""

from dataclasses import dataclass
from functools import partial

from jax_prompt.core.spec import FEATURES, IMAGE, Cut
from jax_prompt.core.tree import Tree
from jax_prompt.data.stored import Streamed, WithRaw
from jax_prompt.runs.config import RunConfig
from jax_prompt.train.cache import cached_cut, frozen_prefix
from jax_prompt.train.job import Data
from jax_prompt.train.program import Program


@dataclass(frozen=True)
class Prefix:
    """The part of the network that is computed once.

    Attributes:
      program: the program that starts from the image.
      backbone: the backbone's frozen parameters, on the devices of the run.
      cut: where training starts; IMAGE: nothing is computed before.
      with_raw: training starts from the image, and the features of the frozen network are computed
        once beside it.
      batch_size: images a call.
      tuner: the tuner's parameters where it acts before the cut and none of them trains.
    """

    program: Program
    backbone: Tree
    cut: Cut
    with_raw: bool
    batch_size: int
    tuner: Tree | None = None

    def apply(self, data: Data) -> Data:
        """Returns a split's data at the cut, or its images with their raw features."""
        prefix = partial(
            frozen_prefix, self.program, backbone=self.backbone, batch_size=self.batch_size
        )
        if self.cut != IMAGE:
            return Data(prefix(self.cut, images=data.data, tuner=self.tuner), data.labels)
        if self.with_raw and not isinstance(data.data, Streamed | WithRaw):
            raw = prefix(FEATURES, images=data.data)
            return Data(WithRaw(data.data, raw), data.labels)
        return data

    def frozen_after(self, frozen: Tree) -> Tree:
        """Returns the frozen leaves that training from the cut still needs."""
        if self.cut < FEATURES:
            return frozen
        return {key: value for key, value in frozen.items() if key != 'backbone'}


def make_prefix(config: RunConfig, program: Program, frozen: Tree, num_images: int) -> Prefix:
    """Decides where training starts.

    Args:
      config: the run.
      program: starts from the image.
      frozen: the frozen tree, on the devices of the run. Prompts that do not train lie there; then
        the head alone trains, on features.
      num_images: images of all splits together.
    """
    facts, backbone = program.classifier.facts, frozen.get('backbone', {})
    tuner = None if config.train_prompts or len(config.lengths) > 1 else frozen.get('tuner')
    still = facts.constant and tuner is not None
    # A random stochastic depth inside the prefix would be a training-time change of it.
    allowed = bool(backbone) and not config.model.drop_path_rate
    budget = config.input.cache_mb if allowed else 0.0

    def place(wanted: Cut) -> Cut:
        return cached_cut(program, wanted, num_images, budget, backbone)

    cut = place(FEATURES if still else facts.cut) if allowed else IMAGE
    # Training starts from the image, but the tuner wants the bare network's features too.
    wants = allowed and facts.needs_raw and cut == IMAGE
    with_raw = wants and place(FEATURES) == FEATURES
    size = config.engine.eval_batch_size
    return Prefix(program, backbone, cut, with_raw, size, tuner if still else None)
