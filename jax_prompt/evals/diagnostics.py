"""How prompts and patch tokens relate: normalised mutual information and linear CKA.

Wang et al., "Revisiting the Power of Prompt for Visual Tuning" (SPT), arXiv:2402.02382. What the
paper leaves open, and what is done here:

- The tokens P_{i-1} and E_{i-1} of block i are those that enter it (its eq. 6), before its first
  norm and projections: eq. 7 has their bare product, with no scale and no heads. The class token
  and registers are no patch tokens. Where prompts enter the first block only, those of a further
  block are what became of them (Z, its eq. 5).
- Both measures are taken for each image and averaged over images; the paper names no images.
- CKA compares two sets of features of the same examples, while P prompts and N patches are no such
  sets. Here the D channels are the examples and the tokens the features, so that P and N may
  differ: two layers' tokens are alike where they span the same directions of the channels.

All in numpy, float64, since NMI at initialisation is many digits below 1.
"""

import numpy as np


def joint_distribution(
    prompts: np.ndarray, patches: np.ndarray, *, centred: bool = False
) -> np.ndarray:
    """Computes the joint distribution of prompts and patch tokens, SPT's eq. 7.

        pi(p^k, e^j) = sigmoid(p^k . e^j) / sum_{j, k} sigmoid(p^k . e^j)

    Args:
      prompts: [..., P, D].
      patches: [..., N, D].
      centred: subtract the mean patch from both first, which is not in the paper. Tokens share a
        large part: the products of prompts made of tokens are then all large and positive, their
        sigmoids all 1, and pi is uniform whatever else the tokens say.

    Returns:
      [..., P, N] float64, sums to 1 over the last two axes.
    """
    prompts, patches = np.asarray(prompts, np.float64), np.asarray(patches, np.float64)
    if centred:
        mean = patches.mean(axis=-2, keepdims=True)
        prompts, patches = prompts - mean, patches - mean
    logs = -np.logaddexp(0.0, -(prompts @ np.swapaxes(patches, -1, -2)))  # log sigmoid, [..., P, N]
    # Relative to the largest: products of -1000 and less would all underflow.
    weights = np.exp(logs - logs.max(axis=(-1, -2), keepdims=True))
    return weights / weights.sum(axis=(-1, -2), keepdims=True)


def normalised_mutual_information(joint: np.ndarray) -> np.ndarray:
    """Computes 2 I(P; E) / (H(P) + H(E)) of joint distributions, SPT's eq. 8.

    0 where the two are independent, 1 where each tells the other; the logarithm's base cancels.

    Args:
      joint: [..., P, N], not negative, sums to 1 over the last two axes.

    Returns:
      [...] float64 in [0, 1]; 0 where both marginals are a single point, which tell nothing.

    Raises:
      ValueError: no distributions.
    """
    joint = np.asarray(joint, np.float64)
    totals = joint.sum(axis=(-1, -2))
    if np.any(joint < 0) or not np.allclose(totals, 1.0, rtol=0.0, atol=1e-6):
        raise ValueError(
            f'the least entry is {joint.min()} and sums lie in [{totals.min()}, {totals.max()}]; '
            'allowed: none below 0, sums of 1. Divide by the sum'
        )
    rows, columns = joint.sum(axis=-1), joint.sum(axis=-2)
    independent = rows[..., :, None] * columns[..., None, :]
    # Not H(P) + H(E) - H(P, E): I may lie many digits below the entropies.
    # A product that underflows stands for an entry as small, which adds nothing.
    counts = (joint > 0) & (independent > 0)
    ratio = np.divide(joint, independent, out=np.ones_like(joint), where=counts)
    information = np.sum(joint * np.log(ratio), axis=(-1, -2))
    entropies = -_x_log_x(rows).sum(axis=-1) - _x_log_x(columns).sum(axis=-1)
    nothing = np.zeros_like(entropies)
    out = np.divide(2.0 * information, entropies, out=nothing, where=entropies > 0)
    return np.clip(out, 0.0, 1.0)  # rounding alone leaves it


def cka_between_layers(prompts: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Computes the linear CKA of each layer's prompts with each layer's patches (SPT, Fig. S4).

    The examples are the D channels, x and y the prompts and the patches of an image:

        ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F),   columns of X and Y centred

    Kornblith et al., "Similarity of Neural Network Representations Revisited", arXiv:1905.00414,
    section 3. It is 1 for an orthogonal transform or an isotropic scaling of the same features, and
    0 where one of them is constant over the examples.

    Args:
      prompts: [L, B, P, D].
      patches: [L, B, N, D].

    Returns:
      [L, L] float64: row i the prompts of layer i, column j the patches of layer j; the mean over
      images.
    """
    x, y = (_centred(np.swapaxes(tokens, -1, -2)) for tokens in (prompts, patches))  # [L, B, D, .]
    across = np.array([_product_norm(layer, y) ** 2 for layer in x])  # [L, L, B]
    # Once a layer: N by N products for each pair of layers would be most of the work.
    scale = _product_norm(x, x)[:, None] * _product_norm(y, y)[None]
    return np.divide(across, scale, out=np.zeros_like(scale), where=scale > 0).mean(axis=-1)


def _x_log_x(x: np.ndarray) -> np.ndarray:
    """Returns x log x, 0 at 0."""
    return x * np.log(np.where(x > 0, x, 1.0))


def _centred(x: np.ndarray) -> np.ndarray:
    """Returns features [..., n, p] with mean 0 over the examples, float64."""
    x = np.asarray(x, np.float64)
    return x - x.mean(axis=-2, keepdims=True)


def _product_norm(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns ||X^T Y||_F of features [..., n, p] and [..., n, q], [...]."""
    return np.sqrt(np.square(np.swapaxes(x, -1, -2) @ y).sum(axis=(-1, -2)))
