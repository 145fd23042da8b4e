"""The command that converts a checkpoint."""

import json
from pathlib import Path

import pytest

from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.cli.convert import main
from jax_prompt.weights.load import load_weights

GOLDEN = Path(__file__).parent / 'golden' / 'timm_legacy.pth'
SMALL = ViTConfig(width=16, depth=2, num_heads=2, mlp_dim=64, patch_size=8, image_size=32)


def test_says_what_it_did(listed, tmp_path, capsys):
    name, out = listed(SMALL), tmp_path / 'own.safetensors'
    command = ['--weights', str(GOLDEN), '--backbone', name, '--out', str(out)]
    assert main([*command, '--dtype', 'float16']) == 0
    printed = capsys.readouterr().out
    assert 'skipped head.weight: classifier head' in printed
    identity = json.loads(printed[printed.rindex('identity:') + 9 :])
    _, report = load_weights(out, name)
    assert identity['sha256'] == report.identity.sha256
    assert identity['source'] == 'timm_legacy.pth'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'--weights': 'nowhere.pth'}, 'no weights at nowhere.pth'),
        ({'--backbone': 'vit_b16_224'}, 'asked: vit_b16_224'),
        ({'--format': 'keras'}, "format 'keras' is unknown"),
        ({'--dtype': 'int8'}, "dtype 'int8' is unknown"),
    ],
)
def test_failures_write_nothing(change, message, listed, tmp_path, capsys):
    out = tmp_path / 'own.safetensors'
    options = {'--weights': str(GOLDEN), '--backbone': listed(SMALL), '--out': str(out)}
    command = [part for pair in (options | change).items() for part in pair]
    assert main(command) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_guess_is_not_converted(listed, tmp_path, capsys):
    """A converted file is trusted, so what it says must have been known."""
    listed(SMALL)
    command = ['--weights', str(GOLDEN), '--backbone', 'vit_test', '--out', str(tmp_path / 'w')]
    assert main(command) == 1 and not (tmp_path / 'w').exists()
    way_out = '--format timm --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225'
    error = capsys.readouterr().err
    assert '--backbone vit_test.test' in error and way_out in error
    assert main([*command, *way_out.split()]) == 0
