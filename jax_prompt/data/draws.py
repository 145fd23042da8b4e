"""Deterministic subsets of labelled examples: stratified splits, fractions, few-shot draws.

All draws come from numpy's legacy generator, whose streams are frozen: the same seed gives the same
subset with every version of numpy.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Draw(NamedTuple):
    """What is taken from train where the data has no val or no test of its own.

    Attributes:
      val: share of train that becomes val.
      test: likewise test; 0: no test.
      seed: of the stratified draw.
    """

    val: float
    test: float
    seed: int


def stratified_split(
    labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples so that each class gives the same share.

    Takes round(fraction * n) examples; what the classes' shares leave over by rounding goes to
    those with the largest remainders. Every class keeps at least one example.

    Args:
      labels: [n] integer labels.
      fraction: share to take, 0 <= fraction < 1.
      seed: of the draw.

    Returns:
      (kept, taken): indices, each ascending, int64.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f'fraction is {fraction}; allowed: 0 <= fraction < 1')
    labels = np.asarray(labels)
    groups = [np.flatnonzero(labels == one) for one in np.unique(labels)]
    quota = np.array([len(group) * fraction for group in groups])
    most = np.array([len(group) - 1 for group in groups], np.int64)
    # 0.3 * 10 is 3.0000000000000004 or 2.9999999999999996 as the product goes.
    count = np.minimum(np.floor(quota + 1e-9).astype(np.int64), most)
    missing = min(round(len(labels) * fraction), int(most.sum())) - int(count.sum())
    for i in np.argsort(count - quota, kind='stable'):
        if missing > 0 and count[i] < most[i]:
            count[i] += 1
            missing -= 1
    rng = np.random.RandomState(seed)
    drawn = [rng.permutation(group)[:k] for group, k in zip(groups, count, strict=True)]
    taken = np.sort(np.concatenate([np.zeros(0, np.int64), *drawn])).astype(np.int64)
    return np.setdiff1d(np.arange(len(labels)), taken), taken


def draw_percent(labels: np.ndarray, percent: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits as `stratified_split` does; what is kept is (100 - percent) %, rounded down."""
    count = len(labels) - (100 - percent) * len(labels) // 100
    return stratified_split(labels, count / len(labels), seed)


def per_class(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Draws k examples of every class; a class with fewer is an error.

    Returns:
      Indices, ascending, int64 [k * K].
    """
    labels = np.asarray(labels)
    rng = np.random.RandomState(seed)
    drawn = []
    for one in np.unique(labels):
        group = np.flatnonzero(labels == one)
        if k < 1 or len(group) < k:
            raise ValueError(
                f'{k} examples a class were asked for, but class {one} has {len(group)}; allowed: '
                f'1 to {len(group)}'
            )
        drawn.append(rng.permutation(group)[:k])
    return np.sort(np.concatenate(drawn))


def fraction(labels: np.ndarray, f: float, seed: int) -> np.ndarray:
    """Draws a stratified fraction 0 < f <= 1 of the examples, at least one of each class.

    Returns:
      Indices, ascending, int64.
    """
    if not 0 < f <= 1:
        raise ValueError(f'fraction is {f}; allowed: 0 < fraction <= 1')
    return stratified_split(labels, 1 - f, seed)[0]


def few_shot(labels: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws k training examples of every class, and min(k, 4) others for validation.

    So many for validation as Learning to Prompt for Vision-Language Models (Zhou et al. 2022,
    arXiv:2109.01134) takes.

    Returns:
      (train, val): indices, each ascending, int64 [k * K] and [min(k, 4) * K].

    Raises:
      ValueError: a class with too few examples.
    """
    labels, num_val = np.asarray(labels), min(k, 4)
    both = per_class(labels, k + num_val, seed)
    val = both[per_class(labels[both], num_val, seed)]
    return np.setdiff1d(both, val), val


def long_tail(labels: np.ndarray, ratio: float, seed: int) -> np.ndarray:
    """Draws a long-tailed subset with an exponential profile.

    Class c of K keeps floor(m ratio^(-c / (K - 1))) examples, where m is the size of the largest
    class: Class-Balanced Loss (Cui et al. 2019, arXiv:1901.05555, section 5.1). A class that has
    fewer keeps all.

    Args:
      labels: [n] integer labels, every class of 0..K-1.
      ratio: imbalance, examples of class 0 over those of class K - 1.
      seed: of the draw.

    Returns:
      Indices, ascending, int64.
    """
    if ratio < 1:
        raise ValueError(f'imbalance ratio is {ratio}; allowed: 1 or more')
    groups = [np.flatnonzero(labels == one) for one in range(int(np.max(labels)) + 1)]
    most = max(map(len, groups))
    rng = np.random.RandomState(seed)
    drawn = []
    for i, group in enumerate(groups):
        count = int(most * (1 / ratio) ** (i / (len(groups) - 1.0)))
        drawn.append(rng.permutation(group)[: max(count, 1)])
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def complete(
    labels: np.ndarray, parts: Mapping[str, np.ndarray], draw: Draw
) -> dict[str, np.ndarray]:
    """Takes val, and test where asked, from train where the data has none of its own.

    Args:
      labels: [n] labels of all examples.
      parts: indices by split name; 'train' at least, missing or empty ones are filled.
      draw: how much is taken.

    Returns:
      Indices by split name.

    Raises:
      ValueError: fractions that leave val or train without examples.
    """
    out = {name: np.asarray(index) for name, index in parts.items() if len(index)}
    own_val, own_test = 'val' in out, 'test' in out
    val, test = (0.0 if own_val else draw.val), (0.0 if own_test else draw.test)
    if test < 0 or val < 0 or test + val >= 1 or not (own_val or val):
        raise ValueError(
            f'val_fraction is {draw.val} and test_fraction {draw.test}; the data has '
            f'{sorted(out)}; allowed: a sum below 1, and val_fraction above 0 if there is no val'
        )
    train = out['train']
    size = len(train)
    if test:
        kept, taken = stratified_split(labels[train], test, draw.seed)
        out['test'], train = train[taken], train[kept]
    if val:
        kept, taken = stratified_split(labels[train], val * size / len(train), draw.seed)
        out['val'], train = train[taken], train[kept]
    empty = [name for name in ('val', 'test') if name in out and not len(out[name])]
    if empty or not len(train):
        raise ValueError(
            f'{size} training images are too few: nothing is left for {empty or ["train"]}; add '
            'images, or change input.val_fraction and input.test_fraction'
        )
    return out | {'train': train}
