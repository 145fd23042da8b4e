"""What a run trained, written as weights and read as a plain backbone."""

import json

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from jax_prompt.backbones.families import family_of
from jax_prompt.cli import export
from jax_prompt.core.tree import flatten, merge
from jax_prompt.data.kept import Kept
from jax_prompt.methods import get_method
from jax_prompt.runs.backbone import build_backbone
from jax_prompt.runs.export import exported, merges
from jax_prompt.runs.program import build_program, init_params
from jax_prompt.runs.restore import Restored, restore
from jax_prompt.runs.run import run
from jax_prompt.weights.load import load_weights, save_converted

IMAGES = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)


@pytest.fixture
def make_run(make_config):
    """Returns a run as training leaves it, with noise in the place of training."""

    def make(method, **changes):
        config = make_config(method=method, **{'image_size': 16, 'weights': '', **changes})
        backbone = build_backbone(config)
        program = build_program(config, backbone, 2, 8)
        trainable, frozen = init_params(config, backbone, program.classifier)
        rng = np.random.default_rng(0)
        noise = lambda x: x + 0.05 * rng.standard_normal(x.shape).astype(np.float32)  # noqa: E731
        result = {
            **{'data': 'some/data set', 'mean': backbone.mean, 'std': backbone.std},
            **{'classes': ['dark', 'bright'], 'weights': backbone.identity.to_dict()},
        }
        kept = Kept('', ('dark', 'bright'), {}, {})
        return Restored(config, result, program, jax.tree.map(noise, trainable), frozen, kept)

    return make


@pytest.mark.parametrize('method', ['lora', 'ssf', 'bias', 'partial', 'full', 'lora+bias'])
def test_the_file_gives_the_tuned_networks_features(method, make_run, tmp_path):
    tuned = make_run(method)
    classifier, params = tuned.program.classifier, merge(tuned.trainable, tuned.frozen)
    want = classifier.backbone.apply(
        {'params': params['backbone']}, IMAGES, classifier.tuner, params.get('tuner', {})
    )
    made = exported(tuned)
    save_converted(tmp_path / 'w', made.tree, made.identity, head=made.head, classes=made.classes)
    tree, report = load_weights(tmp_path / 'w', 'vit_micro')
    plain = family_of(report.config)
    weights = plain.adapt(tree, report.config, ())
    got = plain.make(report.config, ()).apply({'params': weights}, IMAGES)
    assert np.std(want) > 0.1
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
    # At another size than the table's, which is announced; positions shrink where they trained.
    assert report.config.image_size == 16 and 'at 16 px' in made.notes[0]
    assert report.grid == (4 if method == 'full' else 8)
    # A name of its own, which results of what is tuned from it carry, and where it comes from.
    name = report.identity.name
    assert name.startswith(f'vit_micro.{method.replace("+", "_")}_data_set_')
    assert report.identity.parent.split()[0] == 'vit_micro.tiny_imagenet'
    with pytest.raises(ValueError, match=f'holds {name}; asked: .*or ask for vit_micro'):
        load_weights(tmp_path / 'w', 'vit_micro.tiny_imagenet')
    # The head lies beside, and is skipped by whoever wants the backbone.
    assert set(report.skipped) == {'head/kernel', 'head/bias'}
    with safe_open(tmp_path / 'w', 'np') as file:
        np.testing.assert_array_equal(file.get_tensor('head/kernel'), made.head['kernel'])
        assert json.loads(file.metadata()['classes']) == ['dark', 'bright']


@pytest.mark.parametrize('method', ['vpt_deep', 'adapter', 'mlp', 'lora+vpt_shallow'])
def test_what_is_no_change_of_weights_is_refused_by_name(method, make_run):
    part = 'vpt_shallow' if '+' in method else method
    with pytest.raises(
        ValueError, match=f"method {part} adds .*can't be exported; allowed: .*lora"
    ):
        exported(make_run(method))
    assert merges(get_method('ssf').tuner)


def test_a_shift_that_has_no_bias_to_go_to_is_refused(make_run):
    with pytest.raises(ValueError, match=r"ssf can't be merged into swin_micro: .*has no bias, "):
        exported(make_run('ssf', backbone='swin_micro', image_size=0))


def test_a_linear_head_alone_is_exported_with_its_head(make_run, tmp_path, monkeypatch, capsys):
    tuned = make_run('linear', image_size=0)
    monkeypatch.setattr(export, 'restore', lambda *_: tuned)
    out = tmp_path / 'w.safetensors'
    command = ['--workdir', 'x', '--out', str(out)]
    with pytest.raises(ValueError, match='--head'):
        export.main(command)
    assert not out.exists()
    export.main([*command, '--head', '--name', 'mine'])
    assert 'backbone and head' in capsys.readouterr().out
    tree, report = load_weights(out, 'vit_micro')
    assert report.identity.name == 'vit_micro.mine'
    original, _ = load_weights(None, 'vit_micro')
    for path, leaf in flatten(original).items():
        np.testing.assert_array_equal(flatten(tree)[path], leaf)
    with pytest.raises(ValueError, match='allowed: letters, digits'):
        exported(tuned, 'a/b')


def test_training_refuses_weights_whose_meaning_is_open(make_config, tmp_path):
    """And takes them with what settles it; notes reach what training prints and writes."""
    tree, _ = load_weights(None, 'vit_micro')
    path = tmp_path / 'plain.safetensors'
    save_file({k: np.ascontiguousarray(v) for k, v in flatten(tree).items()}, path)
    with pytest.raises(ValueError, match=r'--config\.weights_format=jax_prompt --config\.model\.m'):
        build_backbone(make_config(weights=str(path)))
    half = {'mean': (0.5,) * 3, 'std': (0.5,) * 3}
    backbone = build_backbone(make_config(weights=str(path), model=half))
    assert 'is in no table' in backbone.notes[0]
    with pytest.raises(ValueError, match="format 'keras' is unknown; allowed:"):
        build_backbone(make_config(weights=str(path), weights_format='keras'))
    # The run's own record decides when it is read again.
    recorded = backbone.identity
    assert build_backbone(make_config(weights=str(path)), recorded).mean == (0.5,) * 3
    save_file({'x': np.zeros(1, np.float32)}, path)
    with pytest.raises(ValueError, match='Put the original file back'):
        build_backbone(make_config(weights=str(path)), recorded)


def test_training_prints_and_keeps_the_notes_of_the_weights(make_config, tmp_path, capsys):
    """And what it has recorded is what evaluation takes, whatever lies beside the file then."""
    tree, _ = load_weights(None, 'vit_micro')
    (tmp_path / 'w').mkdir()
    path = tmp_path / 'w' / 'model.safetensors'
    save_file({k: np.ascontiguousarray(v) for k, v in flatten(tree).items()}, path)
    beside = tmp_path / 'w' / 'preprocessor_config.json'
    beside.write_text('{"image_mean": [0.4, 0.4, 0.4], "image_std": [0.3, 0.3, 0.3]}')
    result = run(make_config(method='linear', weights=str(path), epochs=1), tmp_path / 'run')
    assert f'weights: {result["weights_notes"][0]}' in capsys.readouterr().out
    assert 'preprocessor_config.json beside it says' in result['weights_notes'][0]
    assert result['mean'] == result['weights']['mean'] == [0.4] * 3
    beside.unlink()
    assert restore(tmp_path / 'run').program.mean == (0.4,) * 3
