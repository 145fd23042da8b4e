"""Calibration of SPT: prompts built from the tokens that the frozen backbone gives to task images.

The prototypes of layer i are made of the patch tokens that enter block i in a forward pass without
prompts (Revisiting the Power of Prompt for Visual Tuning, arXiv 2402.02382, sections 3.3 and 3.4).

The backbone is seen through `TokenSource` alone. Mean, max and random take one batch. K-means reads
every chosen image and takes one of two roads, by `budget_mb`, the memory for tokens held at once:

- resident: all tokens of one layer fit. They are clustered, advanced by one block, clustered, ...;
  every image passes the backbone once.
- streamed: they don't fit. One pass of the images through the backbone is one Lloyd iteration of
  all layers, and only one batch of tokens lives at a time.

Both start from the same centres (k-means run on a uniform sample of the tokens), so the road
changes time and memory, not the result, unless so small a budget cuts the sample. The paper's
k-means took 27.3 days on CUB-200-2011 (Table 1).

Departures from the paper: the paper's k-means starts from a uniform partition of the tokens, this
one from k-means++ seeds; images come as given, in one view, without random augmentation.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jax_prompt.calibrate.kmeans import KMeansResult, kmeans, lloyd_stream
from jax_prompt.calibrate.pooling import FROM_ONE_BATCH, check_count, sample_stream
from jax_prompt.calibrate.share import from_share
from jax_prompt.calibrate.token_source import Images, Staged, TokenSource
from jax_prompt.calibrate.walk import Walk
from jax_prompt.core.ranges import at_least, check_values, part

CONSTRUCTIONS = (*FROM_ONE_BATCH, 'kmeans')
LAYERS = ('own', 'first', 'last')
SEED_TOKENS = 256  # tokens a prompt in the sample from which k-means starts


@dataclass(frozen=True)
class Calibration:
    """How SPT's prompts are built.

    Attributes:
      construction: how prototypes are made of tokens: 'random', 'mean', 'max' or 'kmeans'.
      fraction: share of the images that is used, drawn uniformly, in (0, 1]. With the same seed a
        smaller share is a part of a larger one. Below 1, random, mean and max take all images of
        the share, as Table 1 of the paper does.
      batch_size: number of images of the one random batch (random, mean, max, with a fraction of
        1), or of each forward pass.
      faithful: True does what the released code does: it takes the tokens of layer 0 before the
        position embedding and pools image by image (`calibrate/pooling.py`). False follows the
        paper's text.
      layers: which tokens make the prompts of a layer: 'own', those that enter the layer; 'first',
        those that enter block 0; 'last', those that leave the last block (paper, Table S2 b).
      budget_mb: largest memory for tokens that are held at once, in MiB. Weights, images and the
        inner activations of a block are not counted.
      max_iter: largest number of k-means iterations.
      tol: k-means stops when the squared moves of the centres are at most `tol` x the mean
        variance.
    """

    construction: str = 'random'
    fraction: float = part(1.0)
    batch_size: int = at_least(64, 1)
    faithful: bool = False
    layers: str = 'own'
    budget_mb: int = at_least(2048, 1, 10**9)
    max_iter: int = at_least(100, 1)
    tol: float = at_least(1e-4)

    def __post_init__(self):
        """Checks the values."""
        for name, value, allowed in (
            ('construction', self.construction, CONSTRUCTIONS),
            ('layers', self.layers, LAYERS),
        ):
            if value not in allowed:
                raise ValueError(
                    f"calibration.{name}='{value}'; allowed: {', '.join(map(repr, allowed))}"
                )
        check_values(self, 'calibration.')


def prototypes(
    source: TokenSource,
    images: Images,
    num_prompts: int,
    num_layers: int,
    calibration: Calibration,
    key: jax.Array,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Builds the initial prompts of each layer from tokens of the images.

    Args:
      source: the frozen backbone. Where it has stages, 'first' and 'last' of `Calibration.layers`
        are those of each stage.
      images: the task's training images or another task's (paper, Fig. 3b), as `source` takes them.
      num_prompts: P.
      num_layers: L, layers that take prompts; 1 for the shallow form.
      calibration: how.
      key: random key; the same key gives the same prompts.

    Returns:
      Prompts, [L, P, D] float32 (with stages D is the widest one's, and what is past a stage's own
      width is 0), and a report: `construction`, `road` ('batch', 'share', 'resident', 'streamed'),
      `held_mb` (tokens held at once, MiB), `seconds`, `num_images` and `num_tokens` (a layer) that
      were used, and of k-means for each set of prototypes `inertia`, `iterations` and `converged`,
      else empty lists. With stages: `construction`, `seconds`, and a report for each in `stages`.

    Raises:
      ValueError: impossible sizes, a budget that holds not even one batch, or tokens that aren't
        finite.
    """
    begin = time.perf_counter()
    sources = source.stages() if isinstance(source, Staged) else {}
    if sources:
        return _by_stage(sources, images, num_prompts, num_layers, calibration, key)
    if not 1 <= num_layers <= source.depth:
        raise ValueError(f'num_layers={num_layers}; allowed: 1 to the {source.depth} blocks')
    if len(images) == 0:
        raise ValueError('no images to build prompts from; give at least one')
    share_key, draw_key = jax.random.split(key)
    share = max(1, round(calibration.fraction * len(images)))
    order = np.asarray(jax.random.permutation(share_key, len(images)))[:share]
    levels = {'own': range(num_layers), 'first': (0,), 'last': (source.depth,)}
    pools = calibration.construction != 'kmeans'
    one_batch = pools and (calibration.fraction == 1 or share <= calibration.batch_size)
    chosen = order[: calibration.batch_size] if one_batch else order if pools else np.sort(order)
    walk = Walk(source, images, chosen, tuple(levels[calibration.layers]), calibration)
    build = _from_one_batch if one_batch else from_share if pools else _from_all
    values, report = build(walk, num_prompts, calibration, draw_key)  # [len(levels), P, D]
    _check_finite(values, walk.levels)
    if calibration.layers != 'own':
        values = np.repeat(values, num_layers, axis=0)  # [L, P, D]
    report = {
        'construction': calibration.construction,
        **report,
        'num_images': len(chosen),
        'num_tokens': len(chosen) * walk.num_patches,
        'seconds': time.perf_counter() - begin,
    }
    return values, report


def _check_finite(values: np.ndarray, levels: Sequence[int]) -> None:
    """Raises ValueError where prototypes [levels, P, D] hold NaN or infinity."""
    wrong = [levels[int(i)] for i in np.flatnonzero(~np.isfinite(values).all((1, 2)))]
    if wrong:
        raise ValueError(
            f'tokens after {wrong} blocks are not finite; check the weights, and that the images '
            'are normalised as the weights expect'
        )


def _by_stage(sources, images, num_prompts, num_layers, calibration, key):
    """Builds the prompts stage after stage, each from the tokens of its own blocks."""
    parts, reports = [], {}
    for i, (name, source) in enumerate(sources.items()):
        left = num_layers - sum(map(len, parts))
        if left > 0:
            values, reports[name] = prototypes(
                source,
                images,
                num_prompts,
                min(left, source.depth),
                calibration,
                jax.random.fold_in(key, i),
            )
            parts.append(values)  # [L of the stage, P, D of the stage]
    if num_layers > sum(map(len, parts)):
        total = sum(source.depth for source in sources.values())
        raise ValueError(f'num_layers={num_layers}; allowed: 1 to the {total} blocks')
    width = max(part.shape[-1] for part in parts)
    padded = [np.pad(part, ((0, 0), (0, 0), (0, width - part.shape[-1]))) for part in parts]
    report: dict[str, Any] = {'construction': calibration.construction, 'stages': reports}
    report['seconds'] = sum(one['seconds'] for one in reports.values())
    return np.concatenate(padded), report


def _from_one_batch(walk, num_prompts, calibration, key):
    """Builds prototypes [levels, P, D] from the walk's only batch."""
    walk.check('one batch of tokens', walk.step_bytes)
    construct = FROM_ONE_BATCH[calibration.construction]
    values = []
    for slot, _, tokens in walk.tokens(range(len(walk.levels))):
        real = tokens[: len(walk.chosen)]  # without the padding
        slot_key = jax.random.fold_in(key, slot)
        values.append(construct(slot_key, real, num_prompts, calibration.faithful))
    report = {'road': 'batch', 'held_mb': walk.in_mb(walk.step_bytes)}
    return np.stack(values), {**report, 'inertia': [], 'iterations': [], 'converged': []}


def _from_all(walk, num_prompts, calibration, key):
    """Builds prototypes [levels, P, D] by k-means over all tokens of the chosen images."""
    num_tokens = len(walk.chosen) * walk.num_patches
    check_count(num_prompts, len(walk.chosen), walk.num_patches)
    row = walk.width * 4  # bytes of a sampled token
    fits = walk.budget // 4 // (len(walk.levels) * row)
    num_seeds = min(num_tokens, max(num_prompts, min(SEED_TOKENS * num_prompts, fits)))
    resident = walk.layer_bytes + walk.step_bytes + 2 * num_seeds * row
    streamed = walk.step_bytes + (len(walk.levels) + 1) * num_seeds * row
    road = 'resident' if resident <= walk.budget else 'streamed'
    held = resident if road == 'resident' else streamed
    walk.check('one batch of tokens and the sample that seeds k-means', held)

    picks = np.sort(jax.random.choice(key, num_tokens, (num_seeds,), replace=False))
    options = {'max_iter': calibration.max_iter, 'tol': calibration.tol}

    def seed(batches, slots):
        """Returns initial centres [slots, P, D]: k-means on the picked tokens of each level."""
        samples = sample_stream(batches, picks, slots, walk.batch_size * walk.num_patches)
        centres = []
        for slot in slots:
            slot_key = jax.random.fold_in(key, slot)
            centres.append(kmeans(slot_key, samples.pop(slot), num_prompts, **options).centres)
        return np.stack(centres)

    run = _resident if road == 'resident' else _streamed
    result = run(walk, seed, options)
    report = {
        'road': road,
        'held_mb': walk.in_mb(held),
        'inertia': [float(x) for x in result.inertia],
        'iterations': [int(x) for x in result.num_iter],
        'converged': [bool(x) for x in result.converged],
    }
    return np.asarray(result.centres), report


def _streamed(walk, seed, options) -> KMeansResult:
    """Clusters all levels at once; each iteration runs the images through the backbone."""
    slots = range(len(walk.levels))
    return lloyd_stream(walk.points, seed(walk.tokens(slots), slots), **options)


def _resident(walk, seed, options) -> KMeansResult:
    """Clusters level after level; the tokens of all images are held and advanced block by block."""
    held = []
    for batch in range(walk.num_batches):
        held.append(jax.block_until_ready(walk.source.embed(walk.read(batch))))
    results = []
    for level in range(max(walk.levels) + 1):
        if level > 0:
            for batch in range(walk.num_batches):
                advanced = walk.source.advance(held[batch], level - 1)
                held[batch] = jax.block_until_ready(advanced)
        if level in walk.levels:
            results.append(_cluster_level(walk, held, level, seed, options))
    return KMeansResult(*(np.concatenate(part) for part in zip(*results, strict=True)))


def _cluster_level(walk, held, level, seed, options) -> KMeansResult:
    """Clusters the held tokens, which have passed `level` blocks."""
    slot = walk.levels.index(level)

    def batches():
        for batch, tokens in enumerate(held):
            yield slot, batch, walk.at(level, batch, tokens)

    def points(wanted):
        del wanted  # there is one problem only
        for _, batch, tokens in batches():
            yield 0, tokens.reshape(-1, walk.width), walk.mask(batch)

    return lloyd_stream(points, seed(batches(), [slot]), **options)
