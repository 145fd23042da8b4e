"""A ConvNeXt from a file of weights through a run to an exported file."""

import numpy as np
from tuned_convnext import CONFIG, IMAGES, weights

from jax_prompt.backbones import table
from jax_prompt.backbones.families import family_of
from jax_prompt.core.tree import merge
from jax_prompt.runs.export import exported
from jax_prompt.runs.restore import restore
from jax_prompt.runs.run import run
from jax_prompt.weights.identity import Identity
from jax_prompt.weights.load import load_weights, save_converted


def test_a_run_from_weights_to_an_exported_file(make_config, monkeypatch, tmp_path):
    name, colours = 'convnext_test.test', (table.HALF, table.HALF)
    entry = table.Entry(name, CONFIG, 'timm', *colours, 'https://x.org/w', None, 'w')
    monkeypatch.setitem(table.ARCHITECTURES, 'convnext_test', CONFIG)
    monkeypatch.setitem(table.ENTRIES, name, entry)
    file = tmp_path / 'w.safetensors'
    save_converted(file, weights(), Identity(name, 'w', '0' * 64, 'timm', *colours))
    config = make_config(backbone='convnext_test', weights=str(file), method='lora+ssf', lr=1e-3)
    result = run(config, tmp_path / 'run', quiet=True)
    assert np.isfinite(result['test_loss'])
    again = restore(tmp_path / 'run')
    assert again.evaluate('test')['accuracy'] == result['test_accuracy']

    classifier, params = again.program.classifier, merge(again.trainable, again.frozen)
    want = classifier.apply(params, IMAGES)
    made = exported(again)
    save_converted(tmp_path / 'x.safetensors', made.tree, made.identity, head=made.head)
    tree, report = load_weights(tmp_path / 'x.safetensors', 'convnext_test')
    family, plain = family_of(report.config), report.config
    backbone = family.adapt(tree, plain, ())
    features = family.make(plain, ()).apply({'params': backbone}, IMAGES)
    got = features @ made.head['kernel'] + made.head['bias']
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
