"""A population: candidates of a search that train side by side, as one program.

Members differ in learning rate, weight decays, seed and number of prompts. `train/loop.py` trains
them; here jobs that may differ in their number of prompts get the program that they share.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from jax_prompt.search.padding import lengthened, obstacle
from jax_prompt.train.job import Job, Outcome
from jax_prompt.train.loop import fit_members
from jax_prompt.train.members import Members, check_alike


def fit_population(
    jobs: Sequence[Job],
    skip: Sequence[int] = (),
    on_failure: Callable[[int, Outcome], None] | None = None,
) -> list[Outcome | None]:
    """Trains jobs side by side; see `members_of` and `fit_members` for arguments and result."""
    return fit_members(members_of(jobs), skip, on_failure)


def members_of(jobs: Sequence[Job]) -> Members:
    """Returns jobs as the members of one training.

    Args:
      jobs: they may differ in name, directory, initial tree, hyper and seed, and in the number of
        prompts where these can be masked.

    Raises:
      ValueError: jobs that differ in more.
    """
    programs = [job.program for job in jobs]
    lengths = [program.classifier.facts.prompt_length for program in programs]
    longest = programs[lengths.index(max(lengths))]
    if len(set(lengths)) > 1 and (reason := obstacle(programs)):
        raise ValueError(
            f'{lengths} prompts, and {reason}; train each number in a population of its own'
        )
    check_alike([replace(job, program=lengthened(job.program, longest)) for job in jobs])
    return Members(jobs, longest)
