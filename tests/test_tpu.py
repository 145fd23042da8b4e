"""Steps of each family compile for a slice of TPUs. It needs libtpu, and no TPU.

    pip install -e '.[test,tpu]' && pytest -m tpu tests/test_tpu.py

A process of its own compiles: libtpu would stay in the process of the other tests. These are few
programs; `python tests/compile_for_tpu.py` compiles those of every method.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.tpu,
    pytest.mark.skipif(find_spec('libtpu') is None, reason="needs pip install 'jax-prompt[tpu]'"),
]
# Together they have all families, prompts among tokens and among pixels, a solver's loop, trained
# weights and every site at which a method adds something.
FEW = [
    ('vit_micro', 'lion', 1),
    ('swin_micro', 'vpt_deep', 1),
    ('resnet_micro', 'vpt_channels+lora+ssf+adapter+snf', 1),
    ('convnext_t_224', 'full', 1),
    ('vit_wide', 'vpt_deep', 1),
    ('vit_wide', 'vpt_deep', 4),
]


@pytest.fixture(scope='module')
def found():
    """The collective operations of each program, {program: [(kind, devices, times)]}."""
    command = [sys.executable, 'tests/compile_for_tpu.py', json.dumps(FEW)]
    env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]
    return {tuple(line['program']): line['found'] for line in lines}


def test_steps_compile(found):
    assert list(found) == FEW
    for program, operations in found.items():
        kinds = {kind for kind, *_ in operations}
        # Gradients are summed over the devices, and no activation changes them.
        assert 'all-reduce' in kinds, program
        fsdp = program[-1]
        assert {devices for _, devices, _ in operations} <= {0, 8, *({2, 4} if fsdp > 1 else ())}


def test_split_weights_are_gathered_among_four(found):
    whole, split = (found['vit_wide', 'vpt_deep', fsdp] for fsdp in (1, 4))
    assert not [one for one in whole if one[0] == 'all-gather']
    gathers = [one for one in split if one[0] == 'all-gather']
    assert {devices for _, devices, _ in gathers} == {4}
    # Four kernels of three blocks in the forward pass, and most of them again in the backward pass.
    assert 12 < sum(times for *_, times in gathers) <= 24
