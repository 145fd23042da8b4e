"""Eight simulated devices (tests/conftest.py) against one."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from params import begun, copied

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.tree import flatten, num_bytes, split
from jax_prompt.data.loader import Stream
from jax_prompt.data.source import Split
from jax_prompt.data.transforms import Augment, StoredView
from jax_prompt.evals.classify import forward
from jax_prompt.methods import METHODS
from jax_prompt.model import build_classifier
from jax_prompt.runs.restore import restore
from jax_prompt.runs.run import run
from jax_prompt.train.mesh import (
    SharedStream,
    data_mesh,
    frozen_spec,
    replicate,
    shard_batch,
    split_frozen,
)
from jax_prompt.train.optim import Hyper, Optim
from jax_prompt.train.program import Program, make_logits
from jax_prompt.train.step import make_step, make_steps, pmap_step

CONFIG = ViTConfig(64, 3, 2, 128, 4, 16, remat='save')
BATCH = 16
HYPER = Hyper(*(np.float32(x) for x in (0.1, 0.01, 0.0)))


def _model(method='vpt_deep', config=CONFIG, **options):
    classifier = build_classifier(config, METHODS[method], 5, **options)
    return classifier, *split(begun(classifier), lambda path: not path.startswith('backbone/'))


@pytest.fixture(scope='module')
def model():
    return _model(num_prompts=4)


def _program(classifier, mesh=None, **changes):
    program = Program(
        classifier=classifier,
        # Not Adam, which blows rounding errors of vanishing gradients up to whole steps.
        optim=Optim('sgd', ema_decay=0.5),
        epochs=4,
        steps_per_epoch=4,
        augment=Augment(crop='random', pad=2, flip=True),
        image_size=16,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        mesh=mesh,
    )
    return replace(program, **changes)


def _batch(size=BATCH):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, 16, 16, 3), dtype=np.uint8)
    weights = (np.arange(size) < size - 3).astype(np.float32)  # a ragged last batch
    return images, rng.integers(0, 5, size).astype(np.int32), weights


def _train(program, trainable, frozen, step=make_step, count=2):
    state = replicate(program.init(copied(trainable)), program.mesh)
    for _ in range(count):
        state, metrics = step(program, state, frozen, *_batch(), HYPER, jax.random.key(3))
    return state, metrics


def _relative(got, want, least=1e-30):
    """Returns the largest |difference| of a leaf over its largest |value|, or over `least`."""
    ratios = jax.tree.map(
        lambda a, b: np.abs(np.asarray(a, np.float64) - b).max() / max(np.abs(b).max(), least),
        got,
        jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), want),
    )
    return max(jax.tree.leaves(ratios))


def test_the_mesh_and_its_limits():
    assert dict(data_mesh(8, 2).shape) == {'data': 4, 'fsdp': 2}
    assert data_mesh().size == 8
    with pytest.raises(ValueError, match='num_devices is 9; there are 8'):
        data_mesh(9)
    with pytest.raises(ValueError, match=r'does not divide the 8 devices.*\[1, 2, 4, 8\]'):
        data_mesh(8, 3)


@pytest.mark.parametrize(
    ('path', 'shape', 'want'),
    [
        ('backbone/blocks_00_03/attn/qkv/kernel', (3, 64, 192), (None, None, 'fsdp')),
        ('backbone/blocks_00_03/mlp/fc2/kernel', (3, 128, 64), (None, 'fsdp', None)),
        ('backbone/blocks_00_04/attn/proj/kernel', (4, 66, 64), (None, None, 'fsdp')),
        ('backbone/blocks_00_04/attn/proj/kernel', (4, 66, 66), ()),  # 4 divides neither axis
        ('backbone/blocks_00_08/ln1/scale', (8, 64), ()),  # small
        ('backbone/patch_embed/kernel', (16, 16, 3, 64), ()),  # outside the blocks
    ],
)
def test_frozen_leaves_are_split_along_their_largest_axis(path, shape, want):
    assert frozen_spec(path, shape, 4) == PartitionSpec(*want)


def test_each_device_holds_its_share_of_the_frozen_blocks(model):
    frozen = split_frozen(model[2], data_mesh(8, 4))
    kernels = [leaf for path, leaf in flatten(frozen).items() if path.endswith('kernel')]
    shared = [leaf for leaf in kernels if leaf.ndim == 3]
    assert len(shared) == 2 * 4  # of the loop's blocks and of the last
    for leaf in shared:
        assert {shard.data.size for shard in leaf.addressable_shards} == {leaf.size // 4}
    on_first = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(frozen)
        for shard in leaf.addressable_shards
        if shard.device == jax.devices()[0]
    )
    assert on_first == num_bytes(frozen) - 3 * num_bytes(shared) // 4


@pytest.mark.parametrize('fsdp', [1, 4])
def test_eight_devices_come_to_the_result_of_one(model, fsdp):
    classifier, trainable, frozen = model
    want, want_metrics = _train(_program(classifier), trainable, frozen)
    mesh = data_mesh(8, fsdp)
    program = _program(classifier, mesh)
    got, metrics = _train(program, replicate(trainable, mesh), split_frozen(frozen, mesh))
    assert _relative(got.trainable, want.trainable) <= 1e-5
    assert _relative(got.ema, want.ema) <= 1e-5
    assert _relative(metrics, want_metrics) <= 1e-5
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(got))


def test_an_epoch_on_the_devices_equals_its_steps(model):
    classifier, trainable, frozen = model
    mesh = data_mesh(8, 4)
    program = _program(classifier, mesh)
    args = replicate(trainable, mesh), split_frozen(frozen, mesh)
    want, _ = _train(program, *args)
    images, labels, weights = _batch()
    rows = np.tile(np.arange(BATCH, dtype=np.int32), (2, 1))
    data = replicate((images, labels), mesh)
    state = replicate(program.init(copied(args[0])), mesh)
    got, _ = make_steps(
        program, state, args[1], *data, rows, np.tile(weights, (2, 1)), HYPER, jax.random.key(3)
    )
    assert _relative(got.trainable, want.trainable) <= 1e-5


def _collectives(text):
    """Returns {computation: [collective operations]} of a compiled module, and its loop bodies."""
    found, name = {}, ''
    for line in text.splitlines():
        if line.endswith('{') and (match := re.match(r'(?:ENTRY )?%?([\w.\-]+) ', line)):
            name = match[1]
        elif match := re.search(r' (all-gather|all-to-all|all-reduce|reduce-scatter)\(', line):
            found.setdefault(name, []).append((match[1], line))
    return found, set(re.findall(r'body=%?([\w.\-]+)', text))


def test_weights_are_gathered_one_block_at_a_time_inside_the_loop(model):
    classifier, trainable, frozen = model
    mesh = data_mesh(8, 4)
    program = _program(classifier, mesh, augment=Augment())
    state = program.init(replicate(trainable, mesh))
    args = (state, split_frozen(frozen, mesh), *_batch(), HYPER, jax.random.key(3))
    found, bodies = _collectives(make_step.lower(program, *args).compile().as_text())
    gathers = {
        name: [line for kind, line in lines if kind == 'all-gather']
        for name, lines in found.items()
        if any(kind == 'all-gather' for kind, _ in lines)
    }
    assert len(set(gathers) & bodies) == 2, 'the loops over blocks, forward and backward'
    assert len(set(gathers) - bodies) <= 1, 'the last block, outside the loops'
    block = {(1, 64, 192), (1, 64, 64), (1, 64, 128), (1, 128, 64)}
    block |= {shape[1:] for shape in block}
    for lines in gathers.values():
        shapes = [re.search(r'= f32\[([\d,]+)\]', line)[1] for line in lines]
        assert {tuple(map(int, shape.split(','))) for shape in shapes} <= block
    kinds = {kind for lines in found.values() for kind, _ in lines}
    assert kinds == {'all-gather', 'all-reduce'}, 'no activation changes devices'


@pytest.mark.parametrize('method', ['vpt_deep', 'lion', 'lora'])
def test_the_pmap_step_equals_the_jitted_step(method):
    classifier, trainable, frozen = _model(method, ViTConfig(32, 2, 2, 32, 8, 16))
    program = _program(classifier)
    count = 2 if method == 'vpt_deep' else 1
    want, want_metrics = _train(program, trainable, frozen, make_step, count)
    got, metrics = _train(program, trainable, frozen, pmap_step, count)
    # The gradient of LION's first gates is a difference of sums many times as large.
    assert _relative(got.trainable, want.trainable, least=1e-4) <= 1e-5
    assert metrics.keys() == want_metrics.keys()
    assert _relative(metrics, want_metrics) <= 1e-5


def test_the_pmap_step_says_what_it_can_not_do(model):
    classifier, trainable, frozen = model
    program = _program(classifier)
    args = (program.init(trainable), frozen, *_batch(12), HYPER, jax.random.key(3))
    with pytest.raises(ValueError, match='12 is no multiple of the 8 devices'):
        pmap_step(program, *args)
    with pytest.raises(ValueError, match='without a mesh'):
        pmap_step(replace(program, mesh=data_mesh(8)), *args)


@pytest.mark.parametrize('size', [8, 5, 3])
def test_logits_of_a_batch_that_the_devices_do_not_divide(model, size):
    classifier, trainable, frozen = model
    images = _batch(11)[0]
    want = forward(lambda *a: make_logits(_program(classifier), *a), trainable, frozen, images, 11)
    mesh = data_mesh(8, 2)
    program = _program(classifier, mesh)
    placed = replicate(trainable, mesh), split_frozen(frozen, mesh)
    got = forward(lambda *a: make_logits(program, *a), *placed, images, size)
    assert got.shape == (11, 5)
    assert _relative(got, want) <= 1e-5


def test_a_batch_is_filled_up_with_zeros():
    mesh = data_mesh(8)
    got = jax.jit(lambda x: shard_batch(x, mesh))(np.ones((5, 2), np.float32))
    np.testing.assert_array_equal(got, np.repeat([1.0, 0.0], [5, 3])[:, None] * np.ones(2))
    assert {shard.data.shape for shard in got.addressable_shards} == {(1, 2)}


@pytest.mark.parametrize('size', [8, 5])
def test_a_stream_gives_each_device_its_rows(size):
    images = _batch(20)[0]
    labels = np.arange(20, dtype=np.int32)
    stream = Stream(Split('train', labels, lambda i: images[i], str), StoredView(16, 'bilinear'))
    order = np.arange(2 * size).reshape(2, size)[::-1]
    mesh = data_mesh(8, 2)
    shared = SharedStream(stream, mesh)
    assert len(shared) == 20
    for row, (x, y) in zip(order, shared.batches(order), strict=True):
        np.testing.assert_array_equal(np.asarray(x), images[row])
        np.testing.assert_array_equal(y, row)
        if size == 8:
            assert {shard.data.shape[0] for shard in x.addressable_shards} == {1}


@pytest.mark.parametrize('options', [{'method': 'spt_deep'}, {'method': 'linear'}])
def test_a_run_on_shared_weights_ends_like_one_on_one_device(make_config, tmp_path, options):
    one = run(make_config(**options), tmp_path / 'one', quiet=True)
    engine = {'num_devices': 8, 'fsdp': 4, 'checkpoint_seconds': 0.0, 'eval_batch_size': 6}
    streamed = {'budget_mb': 1e-6}
    config = make_config(**options, engine=engine, input=streamed)
    got = run(config, tmp_path / 'eight', quiet=True)
    assert got['test_loss'] == pytest.approx(one['test_loss'], rel=1e-4)
    assert got['test_accuracy'] == one['test_accuracy']
    again = restore(tmp_path / 'eight').evaluate('test')
    assert again['accuracy'] == got['test_accuracy']
    assert again['loss'] == pytest.approx(got['test_loss'], rel=1e-5)


def test_a_finished_run_is_found_on_other_devices(make_config, tmp_path):
    config = make_config(method='linear', epochs=1)
    want = run(config, tmp_path / 'run', quiet=True)
    other = replace(config, engine=replace(config.engine, num_devices=8, fsdp=2))
    assert run(other, tmp_path / 'run', quiet=True) == want
    with pytest.raises(ValueError, match='eval_every'):
        engine = replace(config.engine, eval_every=2)
        run(replace(config, engine=engine), tmp_path / 'run', quiet=True)
