"""The weights that ship: small, those of their cards, and better than random ones."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.backbones import table
from jax_prompt.backbones.families import family_of
from jax_prompt.data.open import open_source
from jax_prompt.weights.load import load_weights

PACKAGED = [name for name, entry in table.TABLE.items() if entry.packaged]


@pytest.mark.parametrize('name', PACKAGED)
def test_a_card_tells_which_weights_these_are(name):
    path = table.find_weights(name)
    card = Path(path).with_suffix('.md').read_text(encoding='utf-8')
    assert path.stat().st_size < 3e6
    assert load_weights(path, name)[1].identity.sha256 in card


@pytest.fixture(scope='module')
def photographs(shared_real):
    """CIFAR-10 as JPEG at 32 px: {'train', 'test'}: images in [0, 1] and one-hot labels."""
    splits = open_source(str(shared_real / 'cifar10_jpg.npz')).splits
    out = {}
    for name, count in (('train', 800), ('test', 400)):
        images = np.stack([splits[name].read(i) for i in range(count)])
        out[name] = images.astype(np.float32) / 255, np.eye(10)[splits[name].labels[:count]]
    return out


@pytest.mark.parametrize('name', PACKAGED)
def test_features_are_better_than_those_of_random_weights(name, photographs):
    """By ridge regression on normalised features."""
    tree, report = load_weights(table.find_weights(name), name)
    family = family_of(report.config)
    network = family.make(report.config, ())
    mean, std = (np.asarray(v, np.float32) for v in (report.identity.mean, report.identity.std))
    run = jax.jit(
        lambda params, images: network.apply(params, (images - mean) / std),
        compiler_options={'xla_backend_optimization_level': 2},  # it runs longer than it compiles
    )
    random = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    known = {'params': family.adapt(tree, report.config, ())}

    def accuracy(params):
        (x, y), (other, labels) = (
            (np.asarray(run(params, jnp.asarray(images))), labels)
            for images, labels in photographs.values()
        )
        centre, scale = x.mean(0), x.std(0) + 1e-6
        x, other = (x - centre) / scale, (other - centre) / scale
        weights = np.linalg.solve(x.T @ x + 0.1 * len(x) * np.eye(x.shape[1]), x.T @ y)
        right = np.argmax(other @ weights, axis=1) == np.argmax(labels, axis=1)
        return right.mean()

    found = accuracy(known), accuracy(random)
    assert found[0] > found[1] + 0.05, found
