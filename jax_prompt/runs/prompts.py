"""A run's calibrated prompts: built once from the task's own data, and kept in its directory."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_prompt.calibrate.spt import prototypes
from jax_prompt.calibrate.tokens import BackboneTokens, StreamedImages
from jax_prompt.core.tree import Tree
from jax_prompt.data.stored import Streamed
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.inputs import load_split, open_data
from jax_prompt.train.mesh import SharedStream
from jax_prompt.train.processes import from_primary, is_primary, share
from jax_prompt.train.program import Program
from jax_prompt.weights.sealed import is_whole, read_sealed, write_sealed

_KIND, _BUILT = 'prompts', 'the prompts are built again'


def prototypes_path(config: RunConfig, workdir: Path) -> Path:
    """Returns where a run's prompts lie; a search over numbers of prompts has a file for each."""
    many = config.search and config.search_num_prompts
    number = f'_p_{config.num_prompts}' if many else ''
    return workdir / f'prototypes{number}.safetensors'


def run_prototypes(
    config: RunConfig, program: Program, images: Any, backbone: Tree, path: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """Builds the prompts, or reads those that an earlier process of this run built.

    Each process of several builds them on a device of its own, and takes those of process 0.

    Args:
      config: the run.
      program: starts from the image.
      images: the training images, uint8 [n, S, S, 3], or a stream of them.
      backbone: the backbone's parameters, on the default device.
      path: `prototypes_path`.

    Returns:
      Prompts [L, P, D] float32, and the report of `calibrate.prototypes`.
    """
    facts = program.classifier.facts
    layers, count = len(facts.prompt_layers), facts.prompt_length
    prompts, report = np.zeros(0, np.float32), dict[str, Any]()
    # Damaged ones are named and built again, to the same values.
    if (saved := from_primary(lambda: is_whole(path, _KIND, _BUILT, _check))) and is_primary():
        prompts, report = read_prototypes(path, _BUILT)
    if not saved:
        if config.calibrate_data:
            other = open_data(config, config.calibrate_data).splits['train']
            images = load_split(config, other, program.image_size).data
        if isinstance(images, SharedStream):
            images = images.stream
        if isinstance(images, Streamed):
            images = StreamedImages(images)
        key = jax.random.fold_in(jax.random.key(config.seed), 2)
        source = BackboneTokens(program, backbone)
        prompts, report = prototypes(source, images, count, layers, config.calibration, key)
        if is_primary():
            write_sealed(path, _KIND, {'prompts': prompts}, report)
    shape = from_primary(lambda: prompts.shape)
    return share(prompts, np.zeros(shape, np.float32)), report


def read_prototypes(path: Path, way_out: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Reads the prompts [L, P, D] float32 that `run_prototypes` kept, and their report.

    Raises:
      FileNotFoundError, ValueError: they are missing or damaged; says `way_out`.
    """
    saved = read_sealed(path, _KIND, way_out, _check)
    return saved.leaves['prompts'], saved.info


def _check(leaves: dict[str, np.ndarray], report: Any) -> None:
    if leaves.keys() != {'prompts'} or not isinstance(report, dict):
        raise ValueError('it holds no prompts with their report')
