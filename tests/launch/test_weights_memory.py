"""How much memory weights take on their way from a file to the device."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jax_prompt.core.tree import flatten
from jax_prompt.runs.backbone import build_backbone
from jax_prompt.runs.program import build_program, init_params
from jax_prompt.weights.load import load_weights, save_converted

ROOT = Path(__file__).resolve().parents[2]
STATUS = Path('/proc/self/status')

# Prints, in MB, the weights of a made-up ViT and the peaks above what was resident before: of the
# conversion of a file in google's names, and of reading the converted file to the device. A small
# ViT goes the same way first, so that what is compiled and imported does not count.
_MEASURE = """
import json, sys
from pathlib import Path
import jax, numpy as np
from jax_prompt.backbones import table
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core import colour
from jax_prompt.core.tree import num_bytes
from jax_prompt.runs.backbone import build_backbone
from jax_prompt.runs.program import build_program, init_params
from jax_prompt.runs.config import Engine, RunConfig
from jax_prompt.cli.convert import main

sys.path[0] = 'launch/speed'
from bench_machine import reset_peak, resident


def google(width, depth):
    rng = np.random.default_rng(0)
    yield 'cls', (1, 1, width)
    yield 'Transformer/posembed_input/pos_embedding', (1, 5, width)
    yield 'embedding/kernel', (8, 8, 3, width)
    yield 'embedding/bias', (width,)
    for name in ('scale', 'bias'):
        yield f'Transformer/encoder_norm/{name}', (width,)
    for i in range(depth):
        block = f'Transformer/encoderblock_{i}/'
        for norm in ('LayerNorm_0', 'LayerNorm_2'):
            yield f'{block}{norm}/scale', (width,)
            yield f'{block}{norm}/bias', (width,)
        for name in ('query', 'key', 'value'):
            yield f'{block}MultiHeadDotProductAttention_1/{name}/kernel', (width, 4, width // 4)
            yield f'{block}MultiHeadDotProductAttention_1/{name}/bias', (4, width // 4)
        yield f'{block}MultiHeadDotProductAttention_1/out/kernel', (4, width // 4, width)
        yield f'{block}MultiHeadDotProductAttention_1/out/bias', (width,)
        for name, sides in (('Dense_0', (width, 4 * width)), ('Dense_1', (4 * width, width))):
            yield f'{block}MlpBlock_3/{name}/kernel', sides
            yield f'{block}MlpBlock_3/{name}/bias', sides[1:]


def peak(function):
    before = resident('VmRSS')
    reset_peak()
    made = function()
    return resident('VmHWM') - before, made


def way(folder, width, depth):
    config = ViTConfig(
        width=width, depth=depth, num_heads=4, mlp_dim=4 * width, patch_size=8, image_size=16
    )
    name = f'vit_{width}_16'
    table.ARCHITECTURES[name] = config
    table.ENTRIES[f'{name}.test'] = table.Entry(
        f'{name}.test', config, 'google', colour.HALF, colour.HALF, 'https://x.org', None, 'w.npz'
    )
    source, own = folder / f'{name}.npz', folder / f'{name}.safetensors'
    np.savez(source, **{path: np.ones(shape, np.float32) for path, shape in google(width, depth)})
    command = ['--weights', str(source), '--backbone', name, '--out', str(own)]
    converting, _ = peak(lambda: main(command))
    options = {'method': 'linear', 'data': 'x', 'search': False, 'lr': 0.1}
    engine = Engine(num_devices=1)
    run = RunConfig(backbone=name, weights=str(own), engine=engine, **options)

    def read():
        backbone = build_backbone(run)
        program = build_program(run, backbone, 2, 8)
        return jax.block_until_ready(init_params(run, backbone, program.classifier)), backbone

    reading, ((_, frozen), _) = peak(read)
    return {'weights': num_bytes(frozen) / 1e6, 'converting': converting, 'reading': reading}


way(Path(sys.argv[1]), 32, 2)
print(json.dumps(way(Path(sys.argv[1]), 512, 12)))
"""


@pytest.mark.skipif(not STATUS.exists(), reason='peaks are read from /proc')
def test_weights_are_in_memory_once(tmp_path):
    """From a published file to a converted one, and from there to the device.

    Beside one copy there may be a single stacked leaf, a third of this network at most.
    """
    command = [sys.executable, '-c', _MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    assert got['weights'] > 150
    assert got['converting'] < 1.25 * got['weights'], got
    assert got['reading'] < 1.5 * got['weights'], got


def test_weights_on_the_device_are_no_part_of_the_file(make_config, weights, tmp_path):
    """A CPU device takes over host memory that lies on its boundaries, as the file's leaves can."""
    path = tmp_path / 'w.safetensors'
    tree, report = load_weights(weights, 'vit_micro')
    save_converted(path, tree, report.identity)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], 'little')
    header = whole[8 : 8 + length] + b' ' * (-(8 + length) % 64)
    path.write_bytes(len(header).to_bytes(8, 'little') + header + whole[8 + length :])
    config = make_config(weights=str(path), method='linear')
    backbone = build_backbone(config)
    program = build_program(config, backbone, 2, 8)
    _, frozen = init_params(config, backbone, program.classifier)
    before = {name: np.array(leaf) for name, leaf in flatten(frozen).items()}
    with path.open('r+b') as file:
        file.write(bytes(path.stat().st_size))
    assert not backbone.tree['norm']['scale'].any()  # while these leaves are the file's
    for name, leaf in flatten(frozen).items():
        np.testing.assert_array_equal(leaf, before[name], err_msg=name)
