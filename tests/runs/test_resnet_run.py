"""The engine on a ResNet: whole runs, and batch norms that follow the batch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_reference
from params import copied, drawn
from torch_reference import needs_torch, randomise_norms
from tuned_resnet import weights_of

from jax_prompt.backbones import table
from jax_prompt.backbones.families import family_of
from jax_prompt.backbones.resnet_config import ResNetConfig
from jax_prompt.calibrate.tokens import BackboneTokens
from jax_prompt.core import colour
from jax_prompt.core.tree import count, flatten, is_statistic, split, unstack_layers
from jax_prompt.data.transforms import Augment
from jax_prompt.evals.recorder import record
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier
from jax_prompt.runs.backbone import build_backbone
from jax_prompt.runs.program import build_program, init_params
from jax_prompt.runs.restore import restore
from jax_prompt.runs.run import run
from jax_prompt.train.members import epoch_order
from jax_prompt.train.mesh import data_mesh, replicate
from jax_prompt.train.optim import Hyper, Optim, learning_rate
from jax_prompt.train.program import Program, make_logits
from jax_prompt.train.step import make_step, pmap_step, take_step
from jax_prompt.weights.identity import Identity
from jax_prompt.weights.load import load_weights, save_converted

SMALL = ResNetConfig('bottleneck', (2, 1), 32, width=8)
HYPER = Hyper(*(np.float32(x) for x in (0.1, 0.0, 0.0)))
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 5, 16).astype(np.int32)


@pytest.fixture
def listed(monkeypatch):
    """Lists a ResNet in the table."""

    def add(config=SMALL):
        name = 'resnet_test.test'
        entry = table.Entry(
            name, config, 'hf', colour.HALF, colour.HALF, 'https://x.org/w', None, 'w'
        )
        monkeypatch.setitem(table.ARCHITECTURES, 'resnet_test', config)
        monkeypatch.setitem(table.ENTRIES, name, entry)
        return name

    return add


@pytest.fixture
def weights(tmp_path, listed):
    """A file with weights of a small ResNet, which the table lists."""
    identity = Identity(listed(), 'w', '0' * 64, 'hf', colour.HALF, colour.HALF)
    save_converted(tmp_path / 'w.safetensors', weights_of(SMALL), identity)
    return tmp_path / 'w.safetensors'


RUNS = {
    'linear': ({}, 2 * 65),
    'mlp': ({'tuner': {'layers': 2}}, None),
    'partial': ({'tuner': {'last': 2}}, None),
    'lion': ({'optim': {'name': 'sgd'}, 'lr': 1e-3}, None),
    'sidetune': ({}, None),
    'full': ({'lr': 1e-3}, None),
    'retrain': ({'weights': '', 'lr': 1e-2}, None),
}


@pytest.mark.parametrize('method', RUNS)
def test_a_run_from_weights_to_result(method, make_config, weights, tmp_path):
    changes, trained = RUNS[method]
    base = {'backbone': 'resnet_test', 'weights': str(weights), 'method': method}
    config = make_config(**{**base, 'batch_size': 10, **changes})
    result = run(config, tmp_path / 'run', quiet=True)
    # So few steps on random weights make no good accuracy; that losses fall is tested elsewhere.
    assert np.isfinite(result['test_loss']) and 0.0 <= result['test_accuracy'] <= 1.0
    whole = count(weights_of(SMALL)) + 2 * 65  # without running statistics
    want = whole if method in ('full', 'retrain') else trained
    assert want is None or result['num_trainable'] == want
    again = restore(tmp_path / 'run')
    assert again.evaluate('test')['accuracy'] == result['test_accuracy']


def _program(config=SMALL, method='full', mesh=None, **optim):
    classifier = build_classifier(config, get_method(method), 5)
    return Program(
        classifier=classifier,
        optim=Optim('sgd', **{'momentum': 0.0, **optim}),
        epochs=4,
        steps_per_epoch=4,
        augment=Augment(),
        image_size=32,
        mean=(0.4, 0.5, 0.6),
        std=(0.3, 0.2, 0.25),
        mesh=mesh,
    )


def _start(program, tree):
    classifier = program.classifier
    config = classifier.backbone.config
    params = {
        'backbone': family_of(config).adapt(tree, config, classifier.backbone.seams),
        **drawn(classifier.init_added, jax.random.key(0)),
    }
    method = 'full' if config.batch_statistics else 'partial'
    predicate = get_method(method).predicate(classifier.tuner, classifier.spec)
    return split(jax.tree.map(jnp.array, params), predicate)


def _steps(program, trainable, frozen, number=3, step=make_step):
    put = lambda tree: replicate(tree, program.mesh)  # noqa: E731
    state = put(program.init(copied(trainable)))
    ones, key = np.ones(16, np.float32), jax.random.key(0)
    for _ in range(number):
        state, metrics = step(program, state, put(frozen), PIXELS, LABELS, ones, HYPER, key)
    return state, metrics


def _torch_model():
    """Returns Hugging Face's network of SMALL with a head."""
    import torch

    package = torch_reference.transformers()
    torch.manual_seed(0)
    options = package.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[32, 64],
        depths=[2, 1],
        layer_type='bottleneck',
        num_labels=5,
    )
    model = package.ResNetForImageClassification(options)
    return randomise_norms(model, torch.randn(8, 3, 32, 32))


@needs_torch
def test_three_steps_of_full_training_are_torchs(tmp_path, listed):
    """Weights, running statistics, and the network in evaluation; gradients are clipped."""
    import torch

    name, model = listed(), _torch_model()
    model.save_pretrained(tmp_path)
    tree, _ = load_weights(tmp_path / 'model.safetensors', name)
    program = _program(clip_norm=0.25)
    trainable, frozen = _start(program, tree)
    assert not frozen
    head = trainable['head']
    with torch.no_grad():
        model.classifier[1].weight.copy_(torch.from_numpy(np.array(head['kernel']).T))
        model.classifier[1].bias.copy_(torch.from_numpy(np.array(head['bias'])))
    view = torch.from_numpy(np.array(program.view(PIXELS))).permute(0, 3, 1, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for step in range(3):
        rate = learning_rate(step, 0.1, program.optim, program.epochs, program.steps_per_epoch)
        optimizer.param_groups[0]['lr'] = float(rate)
        optimizer.zero_grad()
        logits = model(view).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(LABELS).long())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
    assert norm > 0.25  # so the clip acted
    state, metrics = _steps(program, trainable, frozen)
    np.testing.assert_allclose(metrics['loss'], loss.item(), atol=1e-4)
    (tmp_path / 'after').mkdir()
    model.save_pretrained(tmp_path / 'after')
    want, _ = load_weights(tmp_path / 'after' / 'model.safetensors', name)
    got = flatten(unstack_layers(state.trainable['backbone']))
    before = flatten(tree)
    for path, leaf in flatten(want).items():
        np.testing.assert_allclose(got[path], leaf, atol=1e-4, err_msg=path)
        moved = np.abs(leaf - before[path]).max()
        assert np.abs(got[path] - leaf).max() < 0.2 * moved, path
    with torch.no_grad():
        logits = model.eval()(view).logits.numpy()
    np.testing.assert_allclose(make_logits(program, state.trainable, {}, PIXELS), logits, atol=2e-4)


def _statistics(tree):
    return {path: np.asarray(v) for path, v in flatten(tree).items() if is_statistic(path)}


@pytest.fixture(scope='module')
def alone():
    program = _program(momentum=0.9)
    return _steps(program, *_start(program, weights_of(SMALL)))


def test_eight_devices_share_the_statistics_of_the_whole_batch(alone):
    program = _program(momentum=0.9, mesh=data_mesh(8))
    state, metrics = _steps(program, *_start(program, weights_of(SMALL)))
    want = flatten(alone[0].trainable)
    for path, leaf in flatten(state.trainable).items():
        np.testing.assert_allclose(leaf, want[path], rtol=1e-4, atol=1e-5, err_msg=path)
    np.testing.assert_allclose(metrics['loss'], alone[1]['loss'], rtol=1e-5)


def test_recomputed_and_unrolled_blocks_keep_the_statistics(alone):
    want = _statistics(alone[0].trainable)
    for change in ({'remat': 'full'}, {'scan': False}):
        program = _program(replace(SMALL, **change), momentum=0.9)
        state, _ = _steps(program, *_start(program, weights_of(SMALL)))
        got = _statistics(state.trainable)
        assert got.keys() == want.keys() and len(got) == 2 * (1 + 4 + 3 + 4)
        for path, leaf in got.items():
            np.testing.assert_allclose(leaf, want[path], rtol=1e-4, atol=1e-5, err_msg=path)


def test_members_of_a_population_each_have_their_own_statistics(alone):
    program = _program(momentum=0.9)
    trainable, frozen = _start(program, weights_of(SMALL))
    ones, key = np.ones(16, np.float32), jax.random.key(0)
    hyper = Hyper(jnp.array([0.1, 0.01]), jnp.zeros(2), jnp.zeros(2))
    states = jax.tree.map(lambda x: jnp.stack([x, x]), program.init(trainable))
    step = jax.jit(
        jax.vmap(
            lambda state, hyper: take_step(
                program, state, frozen, PIXELS, LABELS, ones, hyper, key
            )[0]
        )
    )
    for _ in range(3):
        states = step(states, hyper)
    got = _statistics(states.trainable)
    for path, want in _statistics(alone[0].trainable).items():
        np.testing.assert_allclose(got[path][0], want, rtol=1e-4, atol=1e-5, err_msg=path)
    assert any(np.abs(leaf[0] - leaf[1]).max() > 1e-4 for leaf in got.values())


def test_pmap_which_would_take_them_device_by_device_is_refused():
    program = _program()
    with pytest.raises(ValueError, match=r'images of a batch depend on each other.*make_step'):
        _steps(program, *_start(program, weights_of(SMALL)), step=pmap_step)
    assert program.classifier.mixes_examples
    assert not build_classifier(SMALL, get_method('linear'), 5).mixes_examples


def test_statistics_of_other_methods_stay_bit_for_bit():
    """Partial trains kernels, scales and biases of its blocks, and no statistics."""
    classifier = build_classifier(SMALL, get_method('partial'), 5)
    program = replace(_program(), classifier=classifier)
    trainable, frozen = _start(program, weights_of(SMALL))
    assert {path.rsplit('/', 1)[-1] for path in flatten(trainable['backbone'])} == {
        'kernel',
        'scale',
        'bias',
    }
    before = _statistics(frozen)
    assert len(before) == 2 * (1 + 4 + 3 + 4)
    state, _ = _steps(program, trainable, frozen)
    assert not _statistics(state.trainable)
    for path, leaf in _statistics(frozen).items():
        np.testing.assert_array_equal(leaf, before[path])


def test_weight_decay_and_schedule_leave_statistics_alone():
    """At learning rate 0 weights stay, and statistics follow the batch all the same."""
    program = _program(momentum=0.9, warmup_epochs=4.0, per_epoch=True)
    trainable, frozen = _start(program, weights_of(SMALL))
    state, _ = _steps(program, trainable, frozen, number=1)
    was = flatten(trainable)
    for path, leaf in flatten(state.trainable).items():
        moved = np.abs(np.asarray(leaf - was[path])).max()
        assert (moved > 0) == is_statistic(path), path


def test_an_epochs_last_row_is_filled_with_a_sample_of_it():
    rows, weights = epoch_order(jax.random.key(0), 0, 10, 8, 2)
    np.testing.assert_array_equal(rows[1, 2:], rows[0, :6])
    np.testing.assert_array_equal(weights[1], [1, 1, 0, 0, 0, 0, 0, 0])
    rows, _ = epoch_order(jax.random.key(0), 0, 3, 8, 1)
    assert np.bincount(rows[0]).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_a_batch_is_never_cut_where_its_images_depend_on_each_other(make_config, weights):
    base = {'backbone': 'resnet_test', 'weights': str(weights), 'method': 'full'}
    engine = {'num_devices': 1, 'micro_batch': 2}
    config = make_config(**base, engine=engine)
    program = build_program(config, build_backbone(config), 2, 24)
    assert program.micro_batch == 0
    trainable, frozen = init_params(config, build_backbone(config), program.classifier)
    assert not frozen and _statistics(trainable)


def test_prompts_of_tokens_are_refused_before_training(make_config, weights, tmp_path):
    base = {'backbone': 'resnet_test', 'weights': str(weights), 'method': 'spt_deep'}
    with pytest.raises(ValueError, match=r"'spt_deep' puts prompts among tokens.*vpt_pad"):
        run(make_config(**base), tmp_path / 'run', quiet=True)
    with pytest.raises(ValueError, match='a resnet has no tokens to make prototypes of'):
        BackboneTokens(_program(), {})
    with pytest.raises(ValueError, match="allowed: backbones of the family 'vit'"):
        record(_program().classifier, {}, jnp.zeros((1, 32, 32, 3)))
