"""Exported programs: they give what the run gives, and need jax alone."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from small_serve import own_logits, tuned

from jax_prompt.serve import load_exported
from jax_prompt.serve.export import export

ROOT = Path(__file__).resolve().parents[2]


def wanted(run, images):
    return np.asarray(jax.nn.softmax(own_logits(run, images), axis=-1))


@pytest.mark.parametrize('arguments', [False, True])
def test_an_export_gives_what_its_run_gives(arguments, shown, tmp_path):
    run = tuned('vpt_deep', 0, 3)
    about = export(run, tmp_path / 'x', arguments)
    program = load_exported(tmp_path / 'x')
    assert program.classes == run.classes and about['platforms'] == ['cpu', 'cuda', 'tpu']
    for count in (1, 5):  # the batch is symbolic
        np.testing.assert_array_equal(program.predict(shown[:count]), wanted(run, shown[:count]))
    with pytest.raises(ValueError, match=r'float32 of shape \[5, 16, 16, 3\]; allowed: uint8'):
        program.predict(shown.astype(np.float32))
    with pytest.raises(ValueError, match='exists and is not empty'):
        export(run, tmp_path / 'x')
    with pytest.raises(FileNotFoundError, match=r'it has no about\.json'):
        load_exported(tmp_path)


def test_packs_of_one_kind_share_a_program(shown, tmp_path):
    ways = {'x': ('linear', 0, 3), 'y': ('linear', 1, 5), 'z': ('mlp', 0, 3)}
    for name, way in ways.items():
        export(tuned(*way), tmp_path / name, arguments=True)
    programs = {name: (tmp_path / name / 'program.bin').read_bytes() for name in ways}
    assert programs['x'] == programs['y'] != programs['z']
    other = load_exported(tmp_path / 'x', task=tmp_path / 'y')
    assert len(other.classes) == 5
    np.testing.assert_array_equal(other.predict(shown), wanted(tuned(*ways['y']), shown))
    with pytest.raises(ValueError, match='does not fit the program'):
        load_exported(tmp_path / 'x', task=tmp_path / 'z')


def test_a_batch_of_any_size_and_parts(shown):
    """`Program.logits` can be traced for a symbolic batch, also where a step runs in parts."""
    run = tuned('linear', 0, engine=(('num_devices', 1), ('micro_batch', 2)))
    assert run.program.at_once == 2
    (batch,) = jax.export.symbolic_shape('b')
    images = jax.ShapeDtypeStruct((batch, 16, 16, 3), np.uint8)
    traced = jax.export.export(jax.jit(lambda x: run.program.logits(run.trainable, run.frozen, x)))
    np.testing.assert_allclose(
        traced(images).call(shown[:4]), own_logits(run, shown[:4]), atol=1e-5
    )


_ALONE = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('flax', 'optax', 'orbax', 'chex', 'PIL', 'safetensors'):
            raise ModuleNotFoundError(f'{name} is blocked', name=name)

sys.meta_path.insert(0, Block())
import numpy as np
from jax_prompt.serve import load_exported
images, wanted = np.load(sys.argv[2])['images'], np.load(sys.argv[2])['wanted']
assert np.array_equal(load_exported(sys.argv[1]).predict(images), wanted)
others = {m for m in sys.modules if m.startswith('jax_prompt.')}
assert others == {'jax_prompt.serve', 'jax_prompt.serve.exported'}, others
"""


def test_an_export_needs_jax_alone(shown, tmp_path):
    run = tuned('linear', 0, 3)
    export(run, tmp_path / 'x')
    np.savez(tmp_path / 'data.npz', images=shown, wanted=wanted(run, shown))
    script = tmp_path / 'alone.py'
    script.write_text(f'import sys\nsys.path.insert(0, {str(ROOT)!r})\n{_ALONE}')
    words = [sys.executable, script, tmp_path / 'x', tmp_path / 'data.npz']
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
