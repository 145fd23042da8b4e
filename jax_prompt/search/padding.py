"""Different numbers of prompts in one population: padded to the longest, and masked.

The program of a mixed population has as many prompts as its longest member. A shorter member is
filled up with zeros, and no token attends to these (`Tuner.key_bias`). So their gradient is exactly
0, and momentum, weight decay and averages keep them at 0. Each member equals its solo run. The
program takes the number of prompts of each member as an input. Only the states between device calls
are padded (`train/members.py`); ledgers and checkpoints have the member's own shapes.

If masking would not be exact, each number of prompts has a population of its own (`obstacle`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jax_prompt.model import Classifier
from jax_prompt.train.program import Program


def obstacle(programs: Sequence[Program]) -> str:
    """Returns why trainings that differ in prompts can't share a program; '' where they can."""
    config: Any = programs[0].classifier.backbone.config
    if reason := mask_obstacle(programs[0].classifier):
        return reason
    if len({program.micro_batch for program in programs}) > 1 and (
        config.drop_path_rate or config.patch_drop_rate
    ):
        return 'what is dropped is drawn part by part, and parts of a batch differ'
    return ''


def mask_obstacle(classifier: Classifier) -> str:
    """Returns why prompts past a length can't be left out exactly; '' where they can."""
    config: Any = classifier.backbone.config
    if reason := classifier.facts.mask_obstacle:
        return reason
    if not classifier.spec.attends_globally:
        return f'a {classifier.spec.family} does not mask prompts'
    return 'prompts are pooled' if config.pool == 'mean_prompts' else ''


def lengthened(program: Program, longest: Program) -> Program:
    """Returns a program with as many prompts as another, in parts and with memory as that one."""
    own, other = program.classifier, longest.classifier
    if own.facts.prompt_length == other.facts.prompt_length:
        return program
    tuner: Any = own.tuner
    module: Any = own.backbone
    remat = other.backbone.config.remat  # type: ignore[attr-defined]
    classifier = replace(
        own,
        tuner=replace(tuner, num_prompts=other.facts.prompt_length),
        backbone=module.clone(config=replace(module.config, remat=remat)),
    )
    return replace(program, classifier=classifier, micro_batch=longest.micro_batch)
