"""How much a run has still to do, for the time that is left."""

from jax_prompt.runs.config import RunConfig


def images_after(config: RunConfig, searched: int, train: int, val: int) -> int:
    """Returns how many images a run trains on after some candidates of its search.

    Rungs make it fewer. Where the search is all that is done, what follows it is counted too.

    Args:
      config: the run.
      searched: candidates that are done by then.
      train: training images.
      val: validation images.
    """
    left = (len(config.candidates) - searched) * (config.search_epochs or config.epochs) * train
    rounds = int(config.refit) + int(config.prune.active)
    return left + rounds * config.epochs * (train + (val if config.refit else 0))
