"""Token prototypes: prompts made of the tokens that a frozen network gives to the task's images.

SPT (Revisiting the Power of Prompt for Visual Tuning, arXiv 2402.02382, sections 3.3 and 3.4)
starts the prompts of a layer at prototypes of the patch tokens that enter it. Here are the three
constructions that take one batch of tokens: mean and max pooling, and a random sample. The fourth,
k-means over the whole training set, is in `kmeans.py`; `calibrate/spt.py` runs the network.

`faithful=True` is the released code's form of the pooling, which differs from the paper's text:

- paper: all tokens of the batch in a row, in P windows of floor(N*B/P) tokens, one prototype each;
- code: every image by itself, in P - 1 windows of floor(N / (P - 1)) tokens and one window of the
  last N mod floor(N / (P - 1)) tokens (the whole image where that is 0); then P of the B*P pooled
  tokens, drawn at random.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

Construct = Callable[[jax.Array, jax.Array, int, bool], jax.Array]


def check_count(num_prompts: int, num_images: int, num_patches: int) -> None:
    """Raises a ValueError where P prompts cannot be made of the tokens of these images."""
    num_tokens = num_images * num_patches
    if not 1 <= num_prompts <= num_tokens:
        raise ValueError(
            f'num_prompts={num_prompts} of {num_tokens} tokens ({num_images} images x '
            f'{num_patches} patches); allowed: 1 to the number of tokens. Lower num_prompts, or '
            'raise batch_size or fraction'
        )


def window_pool(tokens: jax.Array, num_prompts: int, how: str = 'mean') -> jax.Array:
    """Pools a batch of tokens in P windows that do not overlap (paper, section 3.4).

    Windows have floor(N*B/P) tokens and may span images; tokens left over at the end are unused.

    Args:
      tokens: [B, N, D].
      num_prompts: P.
      how: 'mean' or 'max'.

    Returns:
      Prototypes, [P, D] float32.

    Raises:
      ValueError: more prompts than tokens.
    """
    flat = _flat(tokens, num_prompts)  # [B*N, D]
    window = flat.shape[0] // num_prompts
    windows = flat[: num_prompts * window].reshape(num_prompts, window, -1)  # [P, window, D]
    return _reduce(windows, how, axis=1)


def image_pool(key: jax.Array, tokens: jax.Array, num_prompts: int, how: str = 'mean') -> jax.Array:
    """Pools each image by itself, then draws P of the pooled tokens (the released code).

    Args:
      key: random key of the draw.
      tokens: [B, N, D].
      num_prompts: P.
      how: 'mean' or 'max'.

    Returns:
      Prototypes, [P, D] float32.

    Raises:
      ValueError: an image has too few tokens for P windows.
    """
    return sample(key, pool_each(tokens, num_prompts, how), num_prompts)


def pool_each(tokens: jax.Array, num_prompts: int, how: str) -> jax.Array:
    """Pools each image by itself; arguments and errors as `image_pool`.

    Returns:
      [B, P, D] float32.
    """
    tokens = tokens.astype(jnp.float32)
    batch, num_patches, width = tokens.shape
    if num_prompts < 1 or num_prompts - 1 > num_patches:
        raise ValueError(
            f'num_prompts={num_prompts} with {num_patches} patches an image; allowed with '
            f'faithful=True: 1 to {num_patches + 1} (each image gives one token a prompt). '
            'Lower num_prompts or set faithful=False'
        )
    num_windows = num_prompts - 1
    window = num_patches // max(num_windows, 1)
    head = tokens[:, : num_windows * window].reshape(batch, num_windows, window, width)
    rest = num_patches % window  # 0: the last window is the whole image
    return jnp.concatenate(
        [_reduce(head, how, axis=2), _reduce(tokens[:, -rest:], how, axis=1)[:, None]], axis=1
    )  # [B, P, D]


def sample(key: jax.Array, tokens: jax.Array, num_prompts: int) -> jax.Array:
    """Draws P tokens of a batch uniformly, without replacement (paper, section 3.4).

    Args:
      key: random key.
      tokens: [B, N, D].
      num_prompts: P.

    Returns:
      Prototypes, [P, D] float32.

    Raises:
      ValueError: more prompts than tokens.
    """
    flat = _flat(tokens, num_prompts)
    return flat[jax.random.choice(key, flat.shape[0], (num_prompts,), replace=False)]


def sample_stream(
    batches: Iterable[tuple[int, int, jax.Array]],
    picks: np.ndarray,
    slots: Collection[int],
    size: int,
) -> dict[int, np.ndarray]:
    """Gathers the same picked tokens of several layers from one pass over batches.

    Args:
      batches: (slot, batch, tokens [B, N, D]): batch number `batch` of the layer in `slot`.
      picks: sorted indices into the tokens of all batches in a row, [S] int.
      slots: the slots that come.
      size: B*N, tokens of a batch.

    Returns:
      {slot: tokens [S, D] float32}, in the order of `picks`.
    """
    starts = np.searchsorted(picks, size * np.arange(picks[-1] // size + 2))
    most = int(np.diff(starts).max())
    samples: dict[int, np.ndarray] = {}
    for slot, batch, tokens in batches:
        if slot not in slots or batch + 1 >= len(starts):
            continue
        start, stop = starts[batch], starts[batch + 1]
        rows = np.zeros(most, np.int32)  # one length for all batches: one compilation
        rows[: stop - start] = picks[start:stop] - batch * size
        if slot not in samples:
            samples[slot] = np.empty((len(picks), tokens.shape[-1]), np.float32)
        samples[slot][start:stop] = np.asarray(_take(tokens, rows))[: stop - start]
    return samples


def _pooling(how: str) -> Construct:
    def construct(key, tokens, num_prompts, faithful):
        if faithful:
            return image_pool(key, tokens, num_prompts, how)
        return window_pool(tokens, num_prompts, how)

    return construct


def _sampling(key, tokens, num_prompts, faithful):
    del faithful  # the code does what the paper says
    return sample(key, tokens, num_prompts)


# name -> construct(key, tokens [B, N, D], num_prompts, faithful) -> prototypes [P, D] float32
FROM_ONE_BATCH: Mapping[str, Construct] = MappingProxyType(
    {'random': _sampling, 'mean': _pooling('mean'), 'max': _pooling('max')}
)


@jax.jit
def _take(tokens: jax.Array, rows: jax.Array) -> jax.Array:
    return tokens.reshape(-1, tokens.shape[-1])[rows].astype(jnp.float32)


_REDUCE: dict[str, Callable[..., jax.Array]] = {'mean': jnp.mean, 'max': jnp.max}


def _reduce(tokens: jax.Array, how: str, axis: int) -> jax.Array:
    if how not in _REDUCE:
        raise ValueError(f"how='{how}'; allowed: {', '.join(map(repr, _REDUCE))}")
    return _REDUCE[how](tokens, axis=axis)


def _flat(tokens: jax.Array, num_prompts: int) -> jax.Array:
    """Returns the tokens as [B*N, D] float32, having checked that P prompts can be made of them."""
    check_count(num_prompts, *tokens.shape[:2])
    return tokens.astype(jnp.float32).reshape(-1, tokens.shape[-1])
