"""What every method has to pass on every family, on a small classifier with random weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from tuned_swin import gradients

from jax_prompt.core.tree import flatten, merge


def check_learning(classifier, trainable, frozen, images):
    """Checks that every leaf learns and that no image depends on the others."""
    run = gradients(classifier)
    (_, logits), grads = run(trainable, frozen, images)
    assert np.isfinite(logits).all()
    for path, leaf in flatten(grads).items():
        size = np.abs(np.asarray(leaf))
        assert np.isfinite(size).all(), path
        if 'blocks' in path or 'layers' in path:  # each layer on its own
            size = size.reshape(size.shape[0], -1)
            assert (size.max(axis=1) > 0).all(), path
        assert size.max() > 0, path
    spoiled = images.copy()
    spoiled[1:] = np.nan
    (_, alone), _ = run(trainable, frozen, spoiled)
    np.testing.assert_allclose(alone[0], logits[0], atol=1e-5)


def check_start(classifier, linear, images, stacked):
    """Checks that training starts from the frozen network, whose weights `stacked` gives."""
    added = jax.jit(classifier.init_added)(jax.random.key(0))
    want = jax.jit(linear.apply)({'head': added['head'], 'backbone': stacked()}, images)
    backbone = stacked(seams=classifier.backbone.seams)
    got = jax.jit(classifier.apply)({**added, 'backbone': backbone}, images)
    np.testing.assert_allclose(got, want, atol=1e-6)


def check_cut(classifier, trainable, frozen, images, cut, own):
    """Checks that what trains, in the parts `own` of the backbone, acts at the cut or after it."""
    assert classifier.facts.cut == cut
    assert {path.split('/')[0] for path in flatten(trainable.get('backbone', {}))} == own
    prefix = jax.jit(partial(classifier.prefix, cut=cut))
    before = prefix(frozen['backbone'], images)
    changed = jax.tree.map(lambda leaf: leaf + 1.0, trainable)
    after = prefix(merge(changed, frozen)['backbone'], images)
    np.testing.assert_array_equal(after, before)
    params = merge(trainable, frozen)
    whole = jax.jit(classifier.apply)(params, images)
    got = jax.jit(partial(classifier.apply, start=cut))(params, before)
    np.testing.assert_allclose(got, whole, atol=1e-5)


def check_merged(classifier, trainable, frozen, images):
    """Checks that weights into which the tuner is merged give its features without it."""
    tuner, own, backbone = classifier.tuner, trainable['tuner'], frozen['backbone']
    run = jax.jit(lambda tree, own=None: classifier.backbone.apply(
        {'params': tree}, images, tuner if own else None, own
    ))  # fmt: skip
    want = run(backbone, own)
    assert np.abs(want - run(backbone)).max() > 0.01
    merged = tuner.merged(backbone, own, classifier.spec)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, backbone)
    np.testing.assert_allclose(run(merged), want, atol=1e-4)
