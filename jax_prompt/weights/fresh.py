"""A final norm that has not been trained, in the place of a file's."""

import numpy as np

from jax_prompt.core.tree import Tree


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
