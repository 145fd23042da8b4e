"""What a prepared run trains: the search's candidates, the final training, and one after pruning.

`runs/run.py` trains the last two. Each is given as a job and its initial state.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jax_prompt.core.grids import edges
from jax_prompt.methods import get_method
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.prepare import Prepared, Start
from jax_prompt.runs.program import init_added
from jax_prompt.runs.prune import choose_kept, pruned_program, read_pruned
from jax_prompt.search.search import Candidate, Chosen, Search
from jax_prompt.train.job import Fit, Job
from jax_prompt.train.log import WAY_OUT, write_json
from jax_prompt.train.processes import from_primary


@dataclass(frozen=True)
class Trained:
    """What the trainings of a run have come to.

    Attributes:
      job: the last training.
      start: its initial state.
      fit: what it gave.
      searched: the rows of a search that came before, [] without one.
      earlier: seconds that earlier processes spent on this run's trainings.
    """

    job: Job
    start: Start
    fit: Fit
    searched: list[dict[str, Any]]
    earlier: float


def after(before: Trained | None, job: Job, start: Start, done: Fit) -> Trained:
    """Returns what a run has come to after one more training.

    A training whose images include those of val has no accuracy on val. It keeps that of the
    training before, by which it was chosen.
    """
    if before is None:
        return Trained(job, start, done, [], done.earlier_seconds)
    if job.val is None and before.job.val is not None:
        names = ('val_accuracy', 'best_val_accuracy', 'best_epoch')
        done = replace(done, **{name: getattr(before.fit, name) for name in names})
    return Trained(job, start, done, before.searched, before.earlier + done.earlier_seconds)


def search_candidates(prepared: Prepared) -> tuple[Chosen, Trained]:
    """Trains the candidates on train; returns what val chose, and its training."""
    config, train, val = prepared.config, prepared.splits['train'], prepared.splits['val']
    has_prompts = get_method(config.method).has_prompts
    candidates, starts = dict[str, Candidate](), dict[str, Start]()
    for name, (hyper, num_prompts) in config.candidates.items():
        start, where = prepared.starts[num_prompts], f'search/{name}'
        job = prepared.job(where, where, start, hyper, train, val, config.search_epochs)
        after = images_after(config, len(candidates) + 1, len(train.labels), len(val.labels))
        shown = num_prompts if has_prompts else None
        job, starts[name] = replace(job, after=after), start
        candidates[name] = Candidate(job, shown)
    chosen = Search(candidates, prepared.workdir / 'search', config.population, prepared.say).run()
    name = chosen.name
    for value, edge in edges(chosen.row, config.grids).items():
        prepared.say(f'search: {value} is the {edge} of its grid; a better one may lie beyond')
    return chosen, Trained(
        job=candidates[name].job,
        start=starts[name],
        fit=chosen.fit,
        searched=chosen.rows,
        earlier=chosen.earlier,
    )


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


def final_job(prepared: Prepared, chosen: Trained | None = None) -> tuple[Job, Start]:
    """Returns the training of what will be tested, and its initial state.

    Args:
      prepared: the run.
      chosen: the candidate that a search chose, which trains again on train and val; None: there
        was no search.
    """
    config, val = prepared.config, None
    start, hyper = (chosen.start, chosen.job.hyper) if chosen else (prepared.start, config.hyper)
    if chosen or config.train_on == 'train+val':
        train = prepared.train_and_val()
    else:
        train, val = prepared.splits['train'], prepared.splits['val']
    return prepared.job('train', 'checkpoints', start, hyper, train, val), start


def pruned_job(prepared: Prepared, first: Trained) -> tuple[Job, Start]:
    """Drops the least important prompts; returns a second training from the same initial values.

    Raises:
      ValueError: what a killed run kept of it in pruned.json is damaged.
    """
    config, job, path = prepared.config, first.job, prepared.workdir / 'pruned.json'
    tuner: Any = job.program.classifier.tuner
    read = partial(read_pruned, path, config.prune, tuner.num_prompts, WAY_OUT)
    if (kept := from_primary(lambda: read() if path.exists() else None)) is None:
        kept = choose_kept(job, first.fit.trainable, config.prune)
        write_json(path, {'kept': kept})
    program = pruned_program(first.start.program, kept)
    trainable = init_added(config, program.classifier)
    start = replace(first.start, program=program, trainable=trainable)
    prepared.say(f'pruned to {program.classifier.facts.prompt_length} prompts a layer')
    return prepared.job('pruned', 'pruned', start, job.hyper, job.train, job.val), start
