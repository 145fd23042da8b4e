"""Every method's step compiles for a slice of TPUs. It needs libtpu, and no TPU.

    pip install -e '.[test,tpu]' && pytest -m tpu tests/test_tpu.py

A process of its own compiles: libtpu would stay in the process of the other tests.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_lowering import PROGRAMS

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.tpu,
    pytest.mark.skipif(find_spec('libtpu') is None, reason="needs pip install 'jax-prompt[tpu]'"),
]

# Compiles the programs that it is asked for; prints {name: [kinds of collectives, turns of each]}.
_COMPILE = """
import json, sys
sys.path.insert(0, 'tests')
from jax_prompt.runs.topology import tpu_slice
devices = tpu_slice('v5e:2x4')
from test_lowering import shapes_for
from jax_prompt.train.compiled import make_step
out = {}
for name, method in json.loads(sys.argv[1]):
    for fsdp in json.loads(sys.argv[2]):
        shapes = shapes_for(name, method, devices, engine={'fsdp': fsdp})
        need = shapes.need(make_step, shapes.step())
        assert not need.too_much and need.total > 0
        out[f'{name} {method} {fsdp}'] = [(one.kind, one.devices, one.times) for one in need.found]
print(json.dumps(out))
"""


def _compiled(programs, fsdp):
    """Returns the collectives of each program, {'NAME METHOD FSDP': [(kind, devices, times)]}."""
    command = [sys.executable, '-c', _COMPILE, json.dumps(programs), json.dumps(fsdp)]
    env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('name', sorted({name for name, _ in PROGRAMS}))
def test_every_step_compiles(name):
    found = _compiled([one for one in PROGRAMS if one[0] == name], [1])
    for program, operations in found.items():
        kinds = {kind for kind, *_ in operations}
        # Gradients are summed over the devices, and no activation changes them.
        assert 'all-reduce' in kinds, program
        assert {devices for _, devices, _ in operations} <= {0, 8}, program


def test_split_weights_are_gathered_among_four():
    found = _compiled([('vit_wide', 'vpt_deep')], [1, 4])
    whole, split = found['vit_wide vpt_deep 1'], found['vit_wide vpt_deep 4']
    assert not [one for one in whole if one[0] == 'all-gather']
    gathers = [one for one in split if one[0] == 'all-gather']
    assert {devices for _, devices, _ in gathers} == {4}
    # Four kernels of three blocks in the forward pass, and again or kept for the backward pass.
    assert 12 <= sum(times for *_, times in gathers) <= 24
