"""The engine on a Swin: its configuration, its weights, a step, and what it refuses."""

import jax
import numpy as np
import pytest
from params import drawn
from tuned_swin import CONFIG

from jax_prompt.backbones import table
from jax_prompt.backbones.swin import Swin
from jax_prompt.core.colour import HALF
from jax_prompt.core.tree import flatten, unstack_layers
from jax_prompt.runs.backbone import build_backbone
from jax_prompt.runs.config import Engine, Model, RunConfig
from jax_prompt.runs.program import build_program, init_params
from jax_prompt.train.optim import Hyper
from jax_prompt.train.step import make_step
from jax_prompt.weights.identity import Identity
from jax_prompt.weights.load import save_converted


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file with weights of a tiny Swin, which the table lists."""
    entry = table.Entry(
        'swin_test.test', CONFIG, 'microsoft', HALF, HALF, 'https://x.org/w', None, 'w'
    )
    monkeypatch.setitem(table.ARCHITECTURES, 'swin_test', CONFIG)
    monkeypatch.setitem(table.ENTRIES, entry.name, entry)
    images = np.zeros((1, 32, 32, 3), np.float32)
    tree = drawn(Swin(CONFIG).init, jax.random.key(0), images)['params']
    identity = Identity(entry.name, 'w', '0' * 64, 'microsoft', entry.mean, entry.std)
    save_converted(tmp_path / 'w.safetensors', tree, identity)
    return tmp_path / 'w.safetensors', tree


def _config(path, method='vpt_deep', **changes):
    values = {'search': False, 'lr': 0.1, 'num_prompts': 2, 'batch_size': 4, **changes}
    values = {'engine': Engine(num_devices=1), **values}
    return RunConfig(backbone='swin_test', weights=str(path), method=method, data='x', **values)


def test_a_step_on_loaded_weights(weights):
    path, tree = weights
    config = _config(path)
    backbone = build_backbone(config)
    assert backbone.config.remat in ('none', 'save', 'full') and backbone.config.window == 4
    for name, leaf in flatten(unstack_layers(tree)).items():
        np.testing.assert_array_equal(flatten(backbone.tree)[name], leaf)
    program = build_program(config, backbone, 5, 4)
    trainable, frozen = init_params(config, backbone, program.classifier)
    assert not program.classifier.tuner.trains('norm/scale', program.classifier.spec)
    before = {path: np.asarray(leaf) for path, leaf in flatten(frozen).items()}
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(4, dtype=np.int32)
    state = program.init(jax.tree.map(np.array, trainable))
    hyper = Hyper(*(np.float32(x) for x in (0.1, 0.0, 0.0)))
    ones, key = np.ones(4, np.float32), jax.random.key(0)
    for _ in range(2):  # the first may be at rate 0, of a warm-up
        state, metrics = make_step(program, state, frozen, images, labels, ones, hyper, key)
    assert np.isfinite(float(metrics['loss']))
    start = flatten(trainable)
    for path, leaf in flatten(state.trainable).items():
        assert np.abs(np.asarray(leaf - start[path])).max() > 0, path
    for path, leaf in flatten(frozen).items():
        np.testing.assert_array_equal(leaf, before[path], err_msg=path)


def test_a_fresh_norm_takes_the_place_of_the_files(weights):
    path, tree = weights
    tree['norm'] = jax.tree.map(lambda leaf: leaf + 0.5, tree['norm'])
    identity = Identity('swin_test.test', 'w', '0' * 64, 'microsoft', HALF, HALF)
    save_converted(path, tree, identity)
    loaded, fresh = (
        build_backbone(_config(path, model=Model(norm=norm))) for norm in ('', 'fresh')
    )
    np.testing.assert_array_equal(loaded.tree['norm']['scale'], tree['norm']['scale'])
    np.testing.assert_array_equal(fresh.tree['norm']['scale'], 1.0)
    np.testing.assert_array_equal(fresh.tree['norm']['bias'], 0.0)
    assert 'fresh one' in fresh.notes[-1] and fresh.tree.keys() == loaded.tree.keys()
    with pytest.raises(ValueError, match=r"model.norm is 'new'; allowed: \('', 'fresh'\)"):
        Model(norm='new')


def test_another_image_size_pads_and_keeps_the_windows(weights):
    config = _config(weights[0], image_size=48)
    backbone = build_backbone(config)
    program = build_program(config, backbone, 5, 4)
    assert program.image_size == 48 and backbone.config.grid_of(0) == 12
    _, frozen = init_params(config, backbone, program.classifier)
    assert frozen['backbone']['blocks_00_02']['attn']['relative_bias'].shape == (2, 49, 1)


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        ({'pool': 'cls'}, "pool is 'cls'; allowed: .'mean_prompts', 'mean'"),
        ({'patch_drop_rate': 0.5}, 'a swin has no patch_drop_rate; leave model.patch_drop_rate'),
    ],
)
def test_what_windows_can_not_do_is_named(weights, model, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(_config(weights[0], model=Model(**model)))
