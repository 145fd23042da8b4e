"""The backbone of a run: its weights, read strictly, and its configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from jax_prompt.backbones.architectures import Config
from jax_prompt.backbones.table import lookup
from jax_prompt.core.checksum import hash_tree
from jax_prompt.core.tree import Tree
from jax_prompt.methods import get_method
from jax_prompt.runs.config import RunConfig
from jax_prompt.weights.load import Identity, load_weights


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone with its weights.

    Attributes:
      config: its configuration for this run.
      tree: parameters in per-layer form, numpy; None where the method starts from random ones, and
        in a run that has them on its device.
      identity: which weights these are; None likewise.
      mean: normalisation of images in [0, 1].
      std: likewise.
      skipped: keys of the file that were not used, with the reason.
      notes: what was assumed of the weights.
      content: SHA-256 of `tree` (`checksum.hash_tree`), '' without one.
    """

    config: Config
    tree: Tree | None
    identity: Identity | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...] = ()
    content: str = ''


def build_backbone(config: RunConfig, recorded: Identity | None = None) -> LoadedBackbone:
    """Reads the weights and settles the backbone's configuration.

    Args:
      config: the run.
      recorded: what a finished run has recorded of its weights; they are read as they were then,
        whatever now lies beside the file.

    Raises:
      FileNotFoundError: no weights there; says where they are published.
      ValueError: the file does not fit the backbone, or does not say how its weights are to be run.
    """
    method, entry = get_method(config.method), lookup(config.backbone)
    network, tree, identity = entry.config, None, None
    skipped: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()
    options = config.model
    mean: tuple[float, ...] = entry.mean
    std: tuple[float, ...] = entry.std
    if method.pretrained:
        tree, report = load_weights(
            config.weights or None,
            config.backbone,
            format=config.weights_format or 'auto',
            mean=options.mean or None,  # type: ignore[arg-type]
            std=options.std or None,  # type: ignore[arg-type]
            pool=options.pool,
            identity=recorded,
        )
        if report.unsettled:
            raise ValueError(report.unsettled)
        network, identity, skipped = report.config, report.identity, report.skipped
        notes = report.notes
        if options.norm == 'fresh':
            tree = fresh_norm(tree)
            notes = (*notes, "the file's final norm is replaced by a fresh one (model.norm)")
        mean, std = identity.mean, identity.std
    elif config.weights:
        raise ValueError(
            f'method {method.name} starts from random weights; leave --config.weights empty, or '
            "take method 'full' to start from the file"
        )
    network = _for_run(network, config)
    mean, std = (
        tuple(own or default) for own, default in ((options.mean, mean), (options.std, std))
    )
    content = '' if tree is None else hash_tree(tree)
    loaded = (network, tree, identity, mean, std, skipped, notes, content)
    return LoadedBackbone(*loaded)  # type: ignore[arg-type]


def fresh_norm(tree: Tree) -> Tree:
    """Returns a backbone's parameters with a final norm that has not been trained.

    Raises:
      ValueError: the backbone has no final norm.
    """
    if 'norm' not in tree:
        raise ValueError(
            "model.norm is 'fresh', and the backbone has no final norm; leave model.norm empty"
        )
    norm = tree['norm']
    fresh = {'scale': np.ones_like(norm['scale']), 'bias': np.zeros_like(norm['bias'])}
    return {**tree, 'norm': fresh}


def check_content(backbone: LoadedBackbone, content: str, file: str | Path, needs: str) -> None:
    """Checks that weights are, value for value, those that something was tuned on.

    The file's own hash can't tell: a converted file has another than the original.

    Args:
      backbone: the weights.
      content: what they have to hash to; '' where an earlier version did not record it.
      file: where they lie, for errors.
      needs: what needs which weights, for errors.

    Raises:
      ValueError: they hash to something else.
    """
    if content and backbone.content != content:
        label = backbone.identity.label if backbone.identity else 'no backbone'
        raise ValueError(
            f'{file} holds the weights of {label} in other values (rounded to half precision?); '
            f'{needs}'
        )


def unloaded_backbone(config: RunConfig) -> LoadedBackbone:
    """Returns the backbone of a run without its weights, as its row of the table describes it."""
    entry, options = lookup(config.backbone), config.model
    mean, std = options.mean or entry.mean, options.std or entry.std
    network = _for_run(entry.config, config)
    return LoadedBackbone(network, None, None, mean, std, {})  # type: ignore[arg-type]


def _for_run(network: Config, config: RunConfig) -> Config:
    options = config.model
    return with_settings(
        network,
        image_size=config.image_size or network.image_size,
        pool=options.pool or network.pool,
        dtype=options.dtype,
        scan=options.scan,
        drop_path_rate=options.drop_path_rate,
        patch_drop_rate=options.patch_drop_rate,
        remat='none' if options.remat == 'auto' else options.remat,
    )


def with_settings(network: Config, **values: Any) -> Config:
    """Returns the configuration with these values; one that its family has not must be unset."""
    known = {field.name for field in fields(network)}
    wrong = [name for name, value in values.items() if name not in known and value]
    if wrong:
        raise ValueError(
            f'a {network.family} has no {wrong[0]}; leave model.{wrong[0]} at its default, or take '
            f'another backbone (a ViT has it)'
        )
    return replace(network, **{name: v for name, v in values.items() if name in known})
