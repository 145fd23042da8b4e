"""Tuners on a Swin: where they start, cuts inside a stage, rematerialisation, merging."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from tuned_swin import CONFIG, IMAGES, SPEC, gradients, tuned

from jax_prompt.core.spec import Cut
from jax_prompt.core.tree import flatten, merge


def test_training_starts_from_the_frozen_network():
    """What adds a delta starts as the identity."""
    linear, _, frozen = tuned('linear')
    classifier, *_ = tuned('lora+adapter+snf')
    added = jax.jit(classifier.init_added)(jax.random.key(0))
    want = jax.jit(linear.apply)({'head': added['head'], 'backbone': frozen['backbone']}, IMAGES)
    got = jax.jit(classifier.apply)({**added, 'backbone': frozen['backbone']}, IMAGES)
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(
    ('name', 'options'), [('partial', {'last': 3}), ('lora', {'first_layer': 1})]
)
def test_a_cut_inside_a_stage(name, options):
    """What lies before it is frozen; the merging behind it trains where blocks before it do."""
    classifier, trainable, frozen = tuned(name, **options)
    cut = classifier.facts.cut
    assert cut == Cut(1) and classifier.backbone.seams == (1,)
    if name == 'partial':
        own = {path.split('/')[0] for path in flatten(trainable['backbone'])}
        assert own == {'blocks_01_02', 'merge_02', 'blocks_02_04', 'norm'}
    else:
        stages = trainable['tuner']['layers']
        sizes = {stage: own['qkv']['up'].shape for stage, own in stages.items()}
        assert sizes == {'stage_00': (1, 8, 24), 'stage_01': (2, 8, 48)}
    params = merge(trainable, frozen)
    whole = jax.jit(classifier.apply)(params, IMAGES)
    before = jax.jit(partial(classifier.prefix, cut=cut))(frozen['backbone'], IMAGES)
    got = jax.jit(partial(classifier.apply, start=cut))(params, before)
    np.testing.assert_allclose(got, whole, atol=1e-5)


def test_rematerialised_gradients_equal_plain_ones():
    classifier, trainable, frozen = tuned('vpt_deep+lora')
    _, want = gradients(classifier)(trainable, frozen, IMAGES)
    for remat in ('save', 'full'):
        other, *_ = tuned('vpt_deep+lora', replace(CONFIG, remat=remat))
        _, got = gradients(other)(trainable, frozen, IMAGES)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, want)


@pytest.mark.parametrize('name', ['lora', 'ssf'])
def test_merged_weights_need_no_tuner(name):
    classifier, trainable, frozen = tuned(name)
    tuner, params = classifier.tuner, trainable['tuner']
    if name == 'ssf':
        with pytest.raises(ValueError, match='merge_02/reduction has no bias'):
            tuner.merged(frozen['backbone'], params, SPEC)
        kept = {k: v for k, v in params['shared'].items() if k != 'merge_02'}
        params = {**params, 'shared': kept}
    run = jax.jit(
        lambda backbone, own: classifier.backbone.apply({'params': backbone}, IMAGES, tuner, own)
    )
    want = run(frozen['backbone'], params)
    merged = tuner.merged(frozen['backbone'], params, SPEC)
    got = jax.jit(lambda backbone: classifier.backbone.apply({'params': backbone}, IMAGES))(merged)
    np.testing.assert_allclose(got, want, atol=1e-4)
