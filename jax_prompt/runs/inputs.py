"""The splits of a run, opened and loaded as its configuration says."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_prompt.data.image_cache import StoredImages, cached_images
from jax_prompt.data.loader import Stream, load_images
from jax_prompt.data.open import Source, Split, check, open_source
from jax_prompt.data.source import Unreadable, concatenate
from jax_prompt.data.stored import Streamed
from jax_prompt.data.subset_names import may_refit
from jax_prompt.data.transforms import StoredView
from jax_prompt.data.twins import shared_images
from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.program import run_mesh
from jax_prompt.train.job import Data
from jax_prompt.train.mesh import SharedStream

_LOG = logging.getLogger(__name__)


def open_data(config: RunConfig, data: str) -> Source:
    """Opens the data of a config.

    Raises:
      ValueError: it can't be opened; or it is a subset that training on train + val would enlarge.
    """
    options = config.input
    both = config.refit if config.search else config.train_on == 'train+val'
    if both and data == config.data and not may_refit(data):
        raise ValueError(
            f'data {data!r} is a subset to train on alone, and refit=True trains on val too; set '
            "refit=False (without a search: train_on='train')"
        )
    return open_source(
        data,
        val_fraction=options.val_fraction,
        test_fraction=options.test_fraction,
        seed=options.draw_seed,
        data_dir=options.data_dir or None,
        draw_seed=options.draw_seed,
    )


def store_size(config: RunConfig, image_size: int) -> int:
    """Returns the side at which images are stored: larger where a random crop needs room."""
    if config.input.store_size:
        return config.input.store_size
    grows = config.augment.crop == 'resized' or (
        config.augment.crop == 'random' and not config.augment.pad
    )
    return round(image_size * 256 / 224) if grows else image_size


def load_split(config: RunConfig, data: Split, image_size: int) -> Data:
    """Decodes a split into memory, or opens a stream of it where it is larger than the budget.

    Raises:
      ValueError: images that can't be decoded, by name.
    """
    options, view = config.input, stored_view(config, image_size)
    if options.image_cache and data.identity:
        return _load_cached(config, data, [data], image_size)
    if _fits(config, len(data), view.size):
        images = load_images(data, view, workers=options.workers)
        return Data(images, np.asarray(data.labels, np.int32))
    check(data, workers=options.workers)
    stream = Stream(data, view, workers=options.workers)
    return Data(_shared(config, stream), data.labels)


def load_splits(config: RunConfig, splits: Mapping[str, Split], image_size: int) -> dict[str, Data]:
    """Loads all splits of a run; a warning counts images that lie in more than one.

    Raises:
      ValueError: images that can't be decoded, those of all splits in one message.
    """
    out: dict[str, Data] = {}
    unreadable = []
    for name, split in splits.items():
        try:
            out[name] = load_split(config, split, image_size)
        except Unreadable as error:
            unreadable.append(error)
    if unreadable:
        raise ValueError('\n'.join(map(str, unreadable)))
    loaded = {name: one.data for name, one in out.items() if isinstance(one.data, np.ndarray)}
    for line in shared_images({name: splits[name] for name in loaded}, loaded):
        _LOG.warning('%s', line)
    return out


def stored_view(config: RunConfig, image_size: int) -> StoredView:
    """Returns how a run stores images.

    Args:
      config: the run.
      image_size: side that its model takes, in pixels.
    """
    size = store_size(config, image_size)
    # A larger stored image already holds the margin that evaluation's centre crop cuts off.
    ratio = 1.0 if size > image_size else config.input.crop_ratio
    return StoredView(size, config.input.resize, config.input.crop, ratio)


def _fits(config: RunConfig, count: int, size: int) -> bool:
    return count * size * size * 3 / 1e6 <= config.input.budget_mb


def _shared(config: RunConfig, stream: Any) -> Any:
    """Returns a stream of which each process reads its own rows."""
    mesh = run_mesh(config)
    return SharedStream(stream, mesh) if mesh else stream


def _load_cached(config: RunConfig, data: Split, splits: list[Split], image_size: int) -> Data:
    """Loads splits, one after the other, from the image cache: `data` is their concatenation."""
    options, view = config.input, stored_view(config, image_size)
    folder = Path(options.image_cache).expanduser()
    parts = [cached_images(folder, one, view, workers=options.workers) for one in splits]
    labels = np.asarray(data.labels, np.int32)
    if _fits(config, len(data), view.size):
        return Data(np.concatenate(parts), labels)
    return Data(_shared(config, StoredImages(data, parts)), labels)


def join(config: RunConfig, splits: list[Split], parts: list[Data], image_size: int) -> Data:
    """Joins splits for one training: their stored data, or a new stream where one is streamed."""
    if not any(isinstance(part.data, Streamed) for part in parts):
        data = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(p.data for p in parts))
        return Data(data, np.concatenate([part.labels for part in parts]))
    both = concatenate('+'.join(one.name for one in splits), splits)
    if config.input.image_cache and all(one.identity for one in splits):
        return _load_cached(config, both, splits, image_size)
    return load_split(config, both, image_size)
