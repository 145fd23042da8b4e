import json
import math
from functools import partial

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score
from small_data import encode

from jax_prompt.cli.diagnose import main, names_of
from jax_prompt.core.spec import Cut
from jax_prompt.evals.diagnostics import (
    cka_between_layers,
    joint_distribution,
    normalised_mutual_information,
)
from jax_prompt.runs.config import resolve
from jax_prompt.runs.inputs import open_data
from jax_prompt.runs.restore import restore
from jax_prompt.runs.run import run

RNG = partial(np.random.default_rng)


def test_the_joint_distribution_is_equation_7():
    prompts, patches = RNG(0).normal(size=(2, 3, 8)), RNG(1).normal(size=(2, 5, 8))
    joint = joint_distribution(prompts, patches)
    wanted = np.zeros((2, 3, 5))
    for b, k, j in np.ndindex(2, 3, 5):
        dot = sum(prompts[b, k, d] * patches[b, j, d] for d in range(8))
        wanted[b, k, j] = 1.0 / (1.0 + math.exp(-dot))
    wanted /= wanted.sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(joint, wanted, rtol=1e-12)


def test_the_joint_distribution_survives_large_products():
    # exp(-1600) and exp(-1601) underflow, their ratio is e.
    joint = joint_distribution(np.array([[-40.0]]), np.array([[40.0], [40.025]]))
    np.testing.assert_allclose(joint, [[math.e / (1 + math.e), 1 / (1 + math.e)]], rtol=1e-9)
    both = joint_distribution(np.array([[1e4], [-1e4]]), np.array([[1e4]]))
    np.testing.assert_allclose(both, [[1.0], [0.0]])


def test_centred_tokens_forget_what_all_of_them_share():
    prompts, patches = RNG(0).normal(size=(3, 8)), RNG(1).normal(size=(5, 8))
    joint = joint_distribution(prompts, patches, centred=True)
    mean = patches.mean(axis=0)
    np.testing.assert_allclose(joint, joint_distribution(prompts - mean, patches - mean))
    shared = 9.0 * RNG(2).normal(size=8)
    moved = (prompts + shared, patches + shared)
    np.testing.assert_allclose(joint_distribution(*moved, centred=True), joint, rtol=1e-9)
    np.testing.assert_allclose(joint_distribution(*moved), 1 / 15, rtol=1e-6)  # saturated


def test_nmi_of_closed_forms():
    rows, columns = RNG(0).dirichlet(np.ones(4)), RNG(1).dirichlet(np.ones(7))
    independent = np.stack([np.full((4, 7), 1 / 28), np.outer(rows, columns)])
    np.testing.assert_allclose(normalised_mutual_information(independent), 0.0, atol=1e-12)
    one_to_one = np.diag(rows)[:, [2, 0, 3, 1]]
    assert normalised_mutual_information(one_to_one) == pytest.approx(1.0, abs=1e-12)
    # [[a, b], [b, a]] / 2: I = log 2 - h(a) and both entropies are log 2.
    noisy_channel = np.array([[0.45, 0.05], [0.05, 0.45]])
    bits = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    assert normalised_mutual_information(noisy_channel) == pytest.approx(1 - bits, rel=1e-12)
    # The product of the second marginals is 1e-400, which is 0 in float64.
    faint = np.array([[1.0, 1e-200], [1e-200, 1e-320]])
    assert normalised_mutual_information(faint) == pytest.approx(0.0, abs=1e-12)
    assert normalised_mutual_information(np.ones((1, 1))) == 0.0
    assert normalised_mutual_information(np.array([[0.3, 0.7]])) == 0.0


def test_nmi_equals_sklearn_and_scipy():
    counts = RNG(0).integers(0, 6, (3, 5))
    joint = counts / counts.sum()
    pairs = np.repeat(np.argwhere(counts >= 0), counts.ravel(), axis=0)
    assert normalised_mutual_information(joint) == pytest.approx(
        normalized_mutual_info_score(*pairs.T), rel=1e-9
    )
    prompts, patches = RNG(2).normal(size=(3, 6)), RNG(3).normal(size=(9, 6))
    joint = joint_distribution(prompts, patches)
    h_p, h_e, h = (stats.entropy(p.ravel()) for p in (joint.sum(1), joint.sum(0), joint))
    wanted = 2 * (h_p + h_e - h) / (h_p + h_e)
    assert 0.001 < wanted < 0.9
    assert normalised_mutual_information(joint) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize('joint', [np.ones((2, 2)), np.array([[1.5, -0.5]])])
def test_nmi_refuses_what_is_no_distribution(joint):
    with pytest.raises(ValueError, match='sums of 1'):
        normalised_mutual_information(joint)


def _hsic_cka(x, y):
    """CKA by centred Gram matrices, Kornblith et al., eq. 3 and 4."""
    n = len(x)
    centring = np.eye(n) - np.ones((n, n)) / n
    k, m = centring @ (x @ x.T) @ centring, centring @ (y @ y.T) @ centring
    return np.trace(k @ m) / math.sqrt(np.trace(k @ k) * np.trace(m @ m))


def linear_cka(x, y):
    """The CKA of features [n, p] and [n, q] as prompts and patches of one image and layer."""
    return cka_between_layers(x.T[None, None], y.T[None, None])[0, 0]


def test_cka_equals_hsic_and_is_invariant():
    x, y = RNG(0).normal(size=(20, 4)), RNG(1).normal(size=(20, 7))
    y[:, :3] += 2.0 * x[:, :3]
    got = linear_cka(x, y)
    assert got == pytest.approx(_hsic_cka(x, y), rel=1e-10)
    assert 0.2 < got < 0.95
    rotation, _ = np.linalg.qr(RNG(2).normal(size=(7, 7)))
    assert linear_cka(x, 3.0 * y @ rotation + 5.0) == pytest.approx(got, rel=1e-10)
    assert linear_cka(y, -0.1 * y @ rotation) == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(y, y @ np.diag([9, 1, 1, 1, 1, 1, 1])) < 0.99  # not to any linear map
    assert linear_cka(x, np.ones((20, 2))) == 0.0


def test_cka_between_layers_takes_channels_as_examples():
    prompts, patches = RNG(0).normal(size=(2, 3, 4, 10)), RNG(1).normal(size=(2, 3, 6, 10))
    got = cka_between_layers(prompts, patches)
    for i, j in np.ndindex(2, 2):
        each = [_hsic_cka(prompts[i, b].T, patches[j, b].T) for b in range(3)]
        assert got[i, j] == pytest.approx(np.mean(each), rel=1e-10)


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """A pack of scikit-learn's first digits, 32 px: 48 train, 16 val images."""
    path = tmp_path_factory.mktemp('data') / 'digits.npz'
    data = load_digits(n_class=4)
    images = np.uint8(data.images[:64] * 15.9).repeat(4, axis=1).repeat(4, axis=2)
    files = [encode(np.stack([image] * 3, axis=-1)) for image in images]
    np.savez(
        path,
        bytes=np.frombuffer(b''.join(files), np.uint8),
        offset=np.cumsum([0, *map(len, files)]).astype(np.int64),
        label=data.target[:64].astype(np.int32),
        split=np.repeat([0, 1], [48, 16]).astype(np.uint8),
        classes=np.array(['zero', 'one', 'two', 'three']),
    )
    return path


@pytest.fixture
def diagnose():
    """Returns the command `diagnose` as a function of its arguments."""
    pytest.importorskip('matplotlib')
    return lambda *args: main([*map(str, args)])


def _train(digits, folder, method, **changes):
    engine = {'num_devices': 1, 'eval_batch_size': 16, 'snapshot_every': 1}
    base = {'data': str(digits), 'backbone': 'vit_micro', 'epochs': 1, 'batch_size': 16}
    base |= {'method': method, 'num_prompts': 3, 'search': False, 'lr': 1e-2}
    config = resolve(base | {'engine': engine, 'model': {'scan': False}} | changes)
    run(config, folder, quiet=True)


def _pictures(folder):
    for path in folder.glob('*.png'):
        with Image.open(path) as image:
            assert image.convert('L').getextrema()[0] < 255  # something is drawn
    return {path.stem for path in folder.glob('*.png')}


def test_runs_are_diagnosed_and_compared(digits, diagnose, tmp_path, capsys):
    calibration = {'construction': 'mean', 'batch_size': 16}
    _train(digits, tmp_path / 'spt', 'spt_deep', calibration=calibration)
    _train(digits, tmp_path / 'gated', 'gated_vpt', tuner={'dropout_rate': 0.0})
    runs = (tmp_path / 'spt', tmp_path / 'gated')
    diagnose('--workdir', *runs, '--out', tmp_path / 'out', '--images', 9, '--shown', 2)
    assert _pictures(tmp_path / 'out') == {'nmi'}
    both = {'cka', 'attention_class', 'attention_prompts'}
    assert _pictures(tmp_path / 'out' / 'spt') == both
    assert _pictures(tmp_path / 'out' / 'gated') == both | {'gates'}
    spt, gated = (
        json.loads((tmp_path / 'out' / name / 'diagnostics.json').read_text())
        for name in ('spt', 'gated')
    )
    assert spt['epochs'] == [0, 1]
    assert np.shape(spt['nmi']) == np.shape(gated['nmi_centred']) == (2, 6)
    # Nine images do not fill two batches of eight: what fills them up must not count.
    done = restore(tmp_path / 'spt')
    prompts = np.asarray(done.trainable['tuner']['layers']['prompts'][0])
    images = open_data(done.config, done.config.data).splits['val']
    chosen = [0, 2, 4, 6, 8, 9, 11, 13, 15]  # of 16, evenly
    split = np.stack([images.read(i) for i in chosen])
    view = done.program.view(split)
    patches = done.program.classifier.prefix(done.frozen['backbone'], view, Cut(0))[:, 1:]
    wanted = normalised_mutual_information(joint_distribution(prompts, patches)).mean()
    assert spt['nmi'][1][0] == pytest.approx(wanted, rel=1e-4)
    assert gated['gates'][0] == pytest.approx([1 / (1 + math.exp(5))] * 5, rel=1e-5)
    assert gated['gates'][1] != gated['gates'][0]
    for shares in spt['attention'].values():
        total = np.add(shares['to_patches'], shares['to_prompts'])
        assert np.all((total > 0) & (total < 1))  # the class token has the rest
    assert 'gates: spt_deep has no gates on its prompts; gated_vpt has' in capsys.readouterr().out


@pytest.fixture(scope='module')
def linear(digits, tmp_path_factory):
    """A run of the head alone, without snapshots."""
    folder = tmp_path_factory.mktemp('linear') / 'run'
    _train(digits, folder, 'linear', engine={'num_devices': 1})
    return folder


def test_a_run_says_what_its_method_has_not(linear, diagnose, tmp_path, capsys):
    diagnose('--workdir', linear, '--out', tmp_path / 'out', '--images', 4)
    assert _pictures(tmp_path / 'out') == {'attention_class'}
    said = capsys.readouterr().out
    for text in ('linear has no prompts', 'solves no equilibrium', 'engine.snapshot_every=1'):
        assert text in said


def test_lion_shows_its_solves(digits, diagnose, tmp_path):
    _train(digits, tmp_path / 'run', 'lion', tuner={'image_block': False, 'width': 6})
    args = ('--out', tmp_path / 'out', '--images', 4, '--steps', 4, '--layers', 5)
    diagnose('--workdir', tmp_path / 'run', *args)
    assert _pictures(tmp_path / 'out') == {'attention_class', 'residuals'}
    residuals = json.loads((tmp_path / 'out' / 'diagnostics.json').read_text())['residuals']
    assert residuals.keys() == {'p2'}
    assert residuals['p2'] == sorted(residuals['p2'], reverse=True)
    assert residuals['p2'][3] < 0.1 * residuals['p2'][0]


@pytest.mark.parametrize(
    ('args', 'kind', 'text'),
    [
        (('--split', 'test'), ValueError, "no split 'test'"),
        (('--layers', '6'), ValueError, 'allowed: 0 to 5'),
        (('--images', '0'), SystemExit, 'at least 1'),
    ],
)
def test_wrong_input_is_named(linear, diagnose, tmp_path, capsys, args, kind, text):
    with pytest.raises(kind) as end:
        diagnose('--workdir', linear, '--out', tmp_path / 'out', *args)
    assert text in (str(end.value) if kind is ValueError else capsys.readouterr().err)


def test_runs_in_folders_of_one_name_have_names_of_their_own(tmp_path, diagnose):
    runs = [tmp_path / method / 'run' for method in ('vpt', 'spt')]
    assert names_of(runs) == ['vpt_run', 'spt_run']
    assert names_of([runs[0], runs[0] / 'run']) == ['run', 'run_run']
    with pytest.raises(ValueError, match='names a run twice'):
        diagnose('--workdir', runs[0], runs[0], '--out', tmp_path)
