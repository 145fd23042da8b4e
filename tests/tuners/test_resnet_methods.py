"""The list that every method has to pass on a ResNet, which has maps instead of tokens."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import optax
import pytest
from tuned_checks import check_cut, check_learning, check_merged, check_start
from tuned_resnet import CLASSES, CONFIG, IMAGES, RESNET_50, SPEC, stacked, tuned
from tuned_vit import SPEC as VIT

from jax_prompt.backbones.resnet_config import ResNetConfig
from jax_prompt.core.spec import FEATURES, Cut
from jax_prompt.core.tree import count, flatten, merge, split
from jax_prompt.methods import METHODS, get_method
from jax_prompt.model import build_classifier
from jax_prompt.tuners.lora import LoRA

BASIC = ResNetConfig('basic', (1, 1), 8, width=4, stem='small')
DEPTHS, MIDDLES = (3, 4, 6, 3), (64, 128, 256, 512)
MIDDLE = sum(n * w for n, w in zip(DEPTHS, MIDDLES, strict=True))  # of all 3x3 convolutions
OUT = 4 * MIDDLE  # of all blocks
NORMS = 64 + 6 * MIDDLE + 4 * sum(MIDDLES)
HEAD = 2049 * 10


def _weights(inputs, middle, first):
    convs = inputs * middle + 9 * middle**2 + 4 * middle**2
    return convs + (4 * inputs * middle if first else 0)


def _stage(i):
    width = MIDDLES[i]
    inputs = 2 * width if i else 64
    return _weights(inputs, width, True) + (DEPTHS[i] - 1) * _weights(4 * width, width, False)


WEIGHTS = 49 * 3 * 64 + sum(_stage(i) for i in range(4)) + 2 * NORMS
ADDED = {
    ('linear', ()): 0,
    ('full', ()): WEIGHTS,
    ('retrain', ()): WEIGHTS,
    ('partial', ()): _weights(2048, 512, False) + 2 * 6 * 512,
    ('partial', (('last', 3),)): _stage(3) + 2 * (3 * 6 + 4) * 512,
    ('bias', ()): NORMS,
    ('bias', (('faithful', True),)): 0,
    ('mlp', ()): 2 * (2048**2 + 3 * 2048),
    ('mp', ()): 2 * 2048 * 64 + 64 * 64 // 4 * 10,
    ('sidetune', ()): 28 * 16 + 145 * 32 + 289 * 64 + 577 * 128 + 129 * 2048 + 1,
    ('vpt_pad', ()): 12 * 10 * 234,
    ('vpt_pad', (('border', 'inside'),)): 12 * 10 * 214,
    ('vpt_channels', ()): 10 * (224**2 + 49 * 64),
    ('vpt_channels', (('faithful', True),)): 10 * (224**2 + 49 * 64) + 49 * 3 * 64 + 2 * 64,
    ('lion', ()): 96_702,
    ('lora', ()): 8 * 10 * MIDDLE,
    ('lora', (('parts', 'conv'),)): 8 * (10 * MIDDLE)
    + 8 * sum((64, 256, 512, 1024)[i] + w for i, w in enumerate(MIDDLES))
    + 8 * sum((n - 1) * 5 * w for n, w in zip(DEPTHS, MIDDLES, strict=True))
    + 8 * 5 * MIDDLE
    + 8 * sum((64, 256, 512, 1024)[i] + 4 * w for i, w in enumerate(MIDDLES)),
    ('ssf', ()): 2 * 2 * NORMS,
    ('adapter', ()): 2 * 64 * OUT + 16 * 64 + OUT,
    ('adapter', (('hidden', 8),)): 2 * 8 * OUT + 16 * 8 + OUT,
    ('snf', ()): 2 * OUT,
    ('snf', (('kind', 'planar'),)): 2 * OUT + 16,
}
PRINTED = {  # as the documentation has them
    'full': 23_508_032,
    'partial': 4_462_592,
    'bias': 26_560,
    'mlp': 8_400_896,
    'mp': 262_144 + 10_240,
    'sidetune': 361_633,
    'vpt_pad': 28_080,
    'vpt_channels': 533_120,
    'lion': 96_702,
    'lora': 302_080,
    'ssf': 106_240,
    'adapter': 1_949_440,
    'snf': 30_208,
}
# Each in one program, so that a network is compiled a few times only.
TOGETHER = (
    'vpt_pad+lora+ssf+adapter+snf+mp',
    'vpt_channels+bias',
    'lion',
    'partial+mlp',
    'sidetune',
    'full',
)
TOKENS = ('vpt_shallow', 'vpt_deep', 'spt_shallow', 'spt_deep', 'dvpt_shallow', 'dvpt_deep')
TOKENS += ('dvpt_spt', 'gated_vpt', 'e2vpt')


@cache
def _shapes(seams):
    method = METHODS['linear']
    size = RESNET_50.image_size
    backbone = build_classifier(RESNET_50, method, 10).backbone.clone(seams=seams)
    return jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))['params']


def test_every_method_without_tokens_is_counted():
    assert {name for name, _ in ADDED} == set(METHODS) - set(TOKENS)
    assert {name: ADDED[name, ()] for name in PRINTED} == PRINTED


@pytest.mark.parametrize(('name', 'options'), ADDED, ids=str)
def test_trainable_count_on_resnet_50_equals_the_closed_form(name, options):
    method = get_method(name)
    classifier = build_classifier(RESNET_50, method, 10, **dict(options))
    added = jax.eval_shape(classifier.init_added, jax.random.key(0))
    params = {'backbone': _shapes(classifier.backbone.seams), **added}
    trainable, _ = split(params, method.predicate(classifier.tuner, classifier.spec))
    assert count(trainable) == ADDED[name, options] + HEAD


@pytest.mark.parametrize('name', TOGETHER)
def test_every_leaf_learns_and_no_image_depends_on_the_others(name):
    check_learning(*tuned(name), IMAGES)


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('lora+adapter+snf', {'lora': {'parts': 'conv'}, 'snf': {'kind': 'planar'}}),
        ('ssf+bias', {'ssf': {'identity': True}}),
    ],
)
def test_training_starts_from_the_frozen_network(name, options):
    linear, *_ = tuned('linear')
    classifier, *_ = tuned(name, **options)
    check_start(classifier, linear, IMAGES, stacked)


@pytest.mark.parametrize(
    ('name', 'options', 'cut', 'own'),
    [
        ('linear', {}, FEATURES, set()),
        ('mp', {}, Cut(4), set()),
        ('adapter', {}, Cut(0), set()),
        ('partial', {'last': 3}, Cut(2), {'blocks_02_03', 'blocks_03_05'}),
        ('lora', {'first_layer': 1, 'parts': 'conv'}, Cut(1), set()),
    ],
)
def test_a_change_of_trainables_changes_nothing_before_the_cut(name, options, cut, own):
    check_cut(*tuned(name, **options), IMAGES, cut, own)


@pytest.mark.parametrize(
    ('name', 'options', 'leaves'),
    [
        ('bias', {}, {'bias'}),
        ('bias', {'faithful': True}, set()),
        ('partial', {}, {'kernel', 'scale', 'bias'}),
        ('vpt_channels', {}, set()),
        ('vpt_channels', {'faithful': True}, {'kernel', 'scale', 'bias'}),
    ],
)
def test_only_named_leaves_of_the_backbone_train(name, options, leaves):
    """No batch norm's statistics among them."""
    _, trainable, _ = tuned(name, **options)
    paths = flatten(trainable.get('backbone', {}))
    assert {path.rsplit('/', 1)[-1] for path in paths} == leaves
    if name == 'vpt_channels':
        assert {path.split('/')[0] for path in paths} <= {'stem_conv', 'stem_norm'}


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('lora', {'parts': 'conv1, conv3, down_conv', 'first_layer': 1, 'scale': 0.5}),
        ('lora+ssf', {'lora': {'parts': 'conv'}}),
    ],
)
def test_merged_weights_need_no_tuner(name, options):
    check_merged(*tuned(name, **options), IMAGES)


@pytest.mark.parametrize('name', sorted({name for name, _ in ADDED} - {'full', 'retrain'}))
def test_loss_falls(name):
    classifier, trainable, frozen = tuned(name, BASIC)
    images, labels = IMAGES[:, :8, :8], jnp.arange(3)
    optimizer = optax.adam(1e-2)
    if len(trainable) > 1:  # the head stays, so that it is the method that learns
        frozen = {**frozen, 'head': trainable.pop('head')}

    def loss(trainable):
        logits = classifier.apply(merge(trainable, frozen), images)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    @jax.jit
    def step(state, _):
        trainable, inner = state
        value, grads = jax.value_and_grad(loss)(trainable)
        updates, inner = optimizer.update(grads, inner)
        return (optax.apply_updates(trainable, updates), inner), value

    _, losses = jax.jit(partial(jax.lax.scan, step, length=12))(
        (trainable, optimizer.init(trainable))
    )
    assert losses[-1] < 0.98 * losses[0]


@pytest.mark.parametrize('name', [*TOKENS, 'vpt_deep+lora'])
def test_prompts_among_tokens_are_refused_when_the_network_is_built(name):
    with pytest.raises(ValueError, match=f"method '{name.replace('+', '.')}' puts prompts among "
                       'tokens, and a resnet has none; .*vpt_pad.*lion.*lora'):  # fmt: skip
        build_classifier(CONFIG, get_method(name), CLASSES)


@pytest.mark.parametrize(
    ('tuner', 'spec', 'message'),
    [
        (LoRA(parts='qkv'), SPEC, r"a resnet has no projection 'qkv'; it has \['conv1', 'conv2'"),
        (LoRA(parts='conv2,mlp'), SPEC, "a resnet has no projection 'fc1'"),
        (
            LoRA(parts='conv3'),
            BASIC.spec(),
            r"a resnet has no projection 'conv3'; it has \['conv1'",
        ),
        (LoRA(parts='conv'), VIT, r"a vit has no projection 'conv1'; it has \['qkv', 'proj'"),
    ],
)
def test_parts_that_no_layer_has_are_named(tuner, spec, message):
    with pytest.raises(ValueError, match=message):
        tuner.init(jax.random.key(0), spec)
