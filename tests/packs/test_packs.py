"""Packs: a tuned task as one file, which predicts as its run does."""

import numpy as np
import pytest
from small_data import encode, picture

from jax_prompt.packs.file import write_pack
from jax_prompt.packs.load import open_tuned

_PRUNED = {'kept': tuple(((1,), ((0, 1, 2, 5),)) for _ in range(2))}
METHODS = {
    'vpt_deep': {},
    'spt_deep': {'train_prompts': False, 'model': {'frozen_dtype': 'bfloat16'}},
    'lora': {},
    'linear': {},
    'partial': {},
    'bias+vpt_shallow': {},
    'lion': {},
}


@pytest.fixture
def images(tmp_path):
    paths = [tmp_path / f'{i}.png' for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(encode(picture(i)))
    return paths


@pytest.mark.parametrize('method', METHODS)
def test_a_pack_predicts_as_its_run_to_the_last_bit(method, make_run, images, tmp_path):
    run = make_run(method, **METHODS[method])
    path = tmp_path / 'out.safetensors'
    write_pack(run, path)
    got = open_tuned(path)
    np.testing.assert_array_equal(got.predict(images), run.predict(images))
    assert got.classes == run.classes and got.program.image_size == 16
