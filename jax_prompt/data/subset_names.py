"""Subsets of any data by name: 'fewshot8/DATA', 'fraction10/DATA', 'longtail100/DATA'.

What is drawn depends on the labels of the data and on a seed of its own, so that runs of different
seeds share it. The test split always stays whole.

- few-shot K: K examples a class to train on, min(K, 4) others a class for validation, from train
  and val together;
- fraction P: P % of train, stratified; val stays;
- long tail R: of train and val together, R times as many of the first class as of the last; a tenth
  of these, stratified, is val.

So training once more on train + val shows a long-tailed run the whole long-tailed set, but a
few-shot run more than K examples a class and a fraction more than P %: these two refuse it.
"""

import re

import numpy as np

from jax_prompt.data.draws import few_shot, fraction, long_tail, stratified_split
from jax_prompt.data.source import Source, concatenate, make_source, select

_NAME = re.compile(r'^(?P<kind>fewshot|fraction|longtail)(?P<amount>\d+)/(?P<data>.+)$')
_VAL_SHARE = 0.1  # of a long-tailed set


def parse_subset(data: str) -> tuple[str, int, str] | None:
    """Returns (kind, amount, data) of a subset's name; None where it is none.

    Raises:
      ValueError: an amount that its kind does not allow.
    """
    match = _NAME.match(data)
    if match is None:
        return None
    kind, amount = match['kind'], int(match['amount'])
    if amount < 1 or (kind == 'fraction' and amount > 100):
        raise ValueError(
            f'data is {data!r}; allowed: fewshotN and longtailN with N of at least 1, fractionN '
            'with N from 1 to 100'
        )
    return kind, amount, match['data']


def whole_of(data: str) -> str:
    """Returns the data that a subset, or a subset of one, is drawn from; other data as it is.

    >>> whole_of('fewshot8/longtail50/flowers.npz')
    'flowers.npz'
    """
    while subset := parse_subset(data):
        data = subset[2]
    return data


def may_refit(data: str) -> bool:
    """Returns whether training on train + val keeps to what the data's name says."""
    subset = parse_subset(data)
    return subset is None or subset[0] == 'longtail'


def draw_subset(source: Source, kind: str, amount: int, seed: int) -> Source:
    """Returns a subset of a source; see the head of this file.

    Args:
      source: the whole data.
      kind: 'fewshot', 'fraction' or 'longtail'.
      amount: examples a class, per cent, or imbalance ratio.
      seed: of the draw.

    Raises:
      ValueError: the data is too small for it.
    """
    train, val = source.splits['train'], source.splits['val']
    pool = train if kind == 'fraction' else concatenate('train', [train, val])
    if kind == 'fraction':
        index = {'train': fraction(pool.labels, amount / 100, seed)}
    elif kind == 'fewshot':
        index = dict(zip(('train', 'val'), few_shot(pool.labels, amount, seed), strict=True))
    else:
        tail = long_tail(pool.labels, amount, seed)
        kept, taken = stratified_split(pool.labels[tail], _VAL_SHARE, seed)
        index = {'train': tail[kept], 'val': tail[taken]}
    splits = dict(source.splits) | {name: select(name, pool, one) for name, one in index.items()}
    members = [one.astype('<i8').tobytes() for one in index.values()]
    name = f'{kind}{amount}/{source.name}'
    identity = [source.fingerprint, *members]
    everywhere = bool(np.all(np.isin(np.arange(len(source.classes)), train.labels)))
    return make_source(
        name,
        source.classes,
        splits,
        identity,
        all_classes=everywhere,
        folder=source.folder,
    )
