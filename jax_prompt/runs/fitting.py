"""The trainings of a prepared run: the search, the final training, and the one after pruning."""

from dataclasses import dataclass, replace
from typing import Any

from jax_prompt.core.grids import edges
from jax_prompt.methods import get_method
from jax_prompt.runs.ahead import images_after
from jax_prompt.runs.prepare import Prepared, Start
from jax_prompt.runs.program import init_added
from jax_prompt.runs.prune import choose_kept, pruned_program
from jax_prompt.search.search import Candidate, Chosen, Search
from jax_prompt.train.job import Data, Fit, Job
from jax_prompt.train.log import read_json, write_json
from jax_prompt.train.loop import fit
from jax_prompt.train.optim import Hyper


@dataclass(frozen=True)
class Trained:
    """What a training ended with, and where it lies.

    Attributes:
      job: the training.
      start: its initial state.
      fit: what it gave.
      directory: where its checkpoints lie, below the run directory.
      searched: the rows of a search that came before, [] without one.
      earlier: seconds that earlier processes spent on this run's trainings.
    """

    job: Job
    start: Start
    fit: Fit
    directory: str
    searched: list[dict[str, Any]]
    earlier: float

    @property
    def hyper(self) -> Hyper:
        """Learning rate and weight decays."""
        return self.job.hyper


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
        candidates[name] = Candidate(job, start.trainable, start.frozen, shown)
    chosen = Search(candidates, prepared.workdir / 'search', config.population, prepared.say).run()
    name = chosen.name
    for value, edge in edges(chosen.row, config.grids).items():
        prepared.say(f'search: {value} is the {edge} of its grid; a better one may lie beyond')
    return chosen, Trained(
        job=candidates[name].job,
        start=starts[name],
        fit=chosen.fit,
        directory=f'search/{name}',
        searched=chosen.rows,
        earlier=chosen.earlier,
    )


def train_final(prepared: Prepared, chosen: Trained | None = None) -> Trained:
    """Trains what will be tested.

    Args:
      prepared: the run.
      chosen: the candidate that a search chose; None: there was no search. With `refit` it is
        trained again on train and val; without, it is itself what will be tested.
    """
    config, val = prepared.config, None
    if chosen is None:
        start, hyper = prepared.start, config.hyper
        both = config.train_on == 'train+val'
    elif config.refit:
        start, hyper, both = chosen.start, chosen.hyper, True
    else:
        return chosen
    if both:
        train = prepared.train_and_val()
    else:
        train, val = prepared.splits['train'], prepared.splits['val']
    final = _train(prepared, 'train', 'checkpoints', start, hyper, train, val)
    if chosen is None:
        return final
    seen = replace(
        final.fit,
        val_accuracy=chosen.fit.val_accuracy,
        best_val_accuracy=chosen.fit.best_val_accuracy,
        best_epoch=chosen.fit.best_epoch,
    )
    earlier = final.earlier + chosen.earlier
    return replace(final, fit=seen, searched=chosen.searched, earlier=earlier)


def prune_and_train(prepared: Prepared, first: Trained) -> Trained:
    """Drops the least important prompts and trains again from the same initial values."""
    config, job, path = prepared.config, first.job, prepared.workdir / 'pruned.json'
    if (saved := read_json(path)) is not None:
        kept = saved['kept']
    else:
        kept = choose_kept(
            job.program,
            first.fit.trainable,
            first.start.frozen,
            *job.train,
            config.engine.eval_batch_size,
            config.prune,
        )
        write_json(path, {'kept': kept})
    program = pruned_program(first.start.program, kept)
    trainable = init_added(config, program.classifier)
    start = replace(first.start, program=program, trainable=trainable)
    prepared.say(f'pruned to {program.classifier.facts.prompt_length} prompts a layer')
    second = _train(prepared, 'pruned', 'pruned', start, job.hyper, job.train, job.val)
    earlier = first.earlier + second.earlier
    return replace(second, searched=first.searched, earlier=earlier)


def _train(
    prepared: Prepared,
    name: str,
    directory: str,
    start: Start,
    hyper: Hyper,
    train: Data,
    val: Data | None,
) -> Trained:
    job = prepared.job(name, directory, start, hyper, train, val)
    done = fit(job, start.trainable, start.frozen)
    return Trained(job, start, done, directory, [], done.earlier_seconds)
