import dataclasses
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.calibrate import spt, walk
from jax_prompt.calibrate.pooling import window_pool
from jax_prompt.calibrate.spt import Calibration, prototypes

DEPTH, NUM_PATCHES, WIDTH = 3, 9, 8


class FakeSource:
    """A frozen network of linear + tanh layers with a class token; records what it is asked."""

    depth = DEPTH

    def __init__(self, batch_size, scale=1.0):
        rng = np.random.default_rng(0)
        self.batch_size = batch_size
        self.kernel = jnp.asarray(scale * rng.normal(size=(3, WIDTH)), jnp.float32)
        self.position = jnp.asarray(rng.normal(size=(NUM_PATCHES, WIDTH)), jnp.float32)
        self.blocks = jnp.asarray(0.5 * rng.normal(size=(DEPTH, WIDTH, WIDTH)), jnp.float32)
        self.calls = []
        self.watch = False
        self.live = 0  # while watching: most bytes of tokens that lived at once

    def _note(self, name, out):
        self.calls.append(name)
        if self.watch:
            tokens = [x.nbytes for x in jax.live_arrays() if x.shape[-1:] == (WIDTH,)]
            self.live = max(self.live, sum(tokens))
        return out

    def collect_embedding(self, images):
        assert images.shape == (self.batch_size, 3, 3, 3)
        pixels = jnp.asarray(images, jnp.float32).reshape(-1, NUM_PATCHES, 3) / 255
        return self._note('embedding', pixels @ self.kernel)

    def embed(self, images):
        tokens = self.collect_embedding(images) + self.position
        return self._note('embed', jnp.pad(tokens, ((0, 0), (1, 0), (0, 0)), constant_values=99.0))

    def advance(self, tokens, layer):
        mixed = tokens + 0.1 * tokens[:, 1:].mean(1, keepdims=True)
        return self._note(layer, tokens + jnp.tanh(mixed @ self.blocks[layer]))

    def patches(self, tokens):
        return tokens[:, 1:]

    def all_levels(self, images):
        """Patch tokens after 0..depth blocks, [depth + 1, n, N, D]."""
        levels = [np.pad(np.asarray(images, np.float32) / 255, 0).reshape(-1, NUM_PATCHES, 3)]
        levels = [levels[0] @ np.asarray(self.kernel) + np.asarray(self.position)]
        for block in np.asarray(self.blocks):
            mixed = levels[-1] + 0.1 * levels[-1].mean(1, keepdims=True)
            levels.append(levels[-1] + np.tanh(mixed @ block))
        return np.stack(levels)


class Recorder:
    """Images that note which of them were read."""

    def __init__(self, images):
        self.images, self.read = images, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.read.extend(np.asarray(index).tolist())
        return self.images[index]


def images_of(num_images=37, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_images, 3, 3, 3), np.uint8)


def build(images=None, num_prompts=5, num_layers=DEPTH, key=0, source=None, **options):
    calibration = Calibration(**{'batch_size': 8, **options})
    source = FakeSource(calibration.batch_size) if source is None else source
    images = images_of() if images is None else images
    return prototypes(source, images, num_prompts, num_layers, calibration, jax.random.key(key))


@pytest.fixture(autouse=True)
def small_sample(monkeypatch):
    """One sample size for all tests, small beside the tokens, so that they share compilations."""
    monkeypatch.setattr(spt, 'SEED_TOKENS', 10)


def force_road(monkeypatch, road):
    """Makes budget_mb=1 hold either all of 150 images' tokens or a few batches of them."""
    monkeypatch.setattr(walk, 'MB', 2**20 if road == 'resident' else 40_000)


@pytest.mark.parametrize('construction', spt.CONSTRUCTIONS)
@pytest.mark.parametrize('faithful', [False, True])
def test_shape_report_and_key(construction, faithful):
    first, report = build(construction=construction, faithful=faithful)
    again, _ = build(construction=construction, faithful=faithful)
    other, _ = build(construction=construction, faithful=faithful, key=1)
    assert first.shape == (DEPTH, 5, WIDTH)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert report['construction'] == construction
    assert report['num_images'] == (37 if construction == 'kmeans' else 8)
    assert report['num_tokens'] == report['num_images'] * NUM_PATCHES
    assert report['seconds'] > 0
    assert len(report['inertia']) == (DEPTH if construction == 'kmeans' else 0)


def test_mean_and_max_pool_the_random_batch():
    recorder = Recorder(images_of())
    for how in ('mean', 'max'):
        recorder.read.clear()
        values, report = build(recorder, construction=how)
        chosen = recorder.read[:8]
        assert len(set(chosen)) == 8
        levels = FakeSource(8).all_levels(recorder.images[chosen])
        expected = [window_pool(level, 5, how) for level in levels[:DEPTH]]
        np.testing.assert_allclose(values, expected, atol=1e-5)
        assert report['road'] == 'batch'


@pytest.mark.parametrize('construction', ['mean', 'max', 'random'])
def test_padding_of_a_small_set_never_leaks(construction):
    images = images_of(5)
    values, report = build(images, construction=construction, batch_size=16, num_prompts=45)
    assert report['num_tokens'] == 45
    # As many prompts as real tokens: each of them is one prompt.
    for got, level in zip(values, FakeSource(16).all_levels(images), strict=False):
        flat = level.reshape(45, WIDTH)
        nearest = np.abs(got[:, None] - flat).max(-1)
        assert nearest.min(1).max() < 1e-5
        assert len(set(nearest.argmin(1))) == 45


@pytest.mark.parametrize('road', ['resident', 'streamed'])
def test_kmeans_finds_the_clusters_of_all_tokens(monkeypatch, road):
    from sklearn.cluster import KMeans

    force_road(monkeypatch, road)
    # 150 images are no multiple of 8; an extreme first image would show if padding leaked.
    images = images_of(150)
    images[0] = 255
    values, report = build(images, construction='kmeans', tol=0.0, budget_mb=1)
    assert report['road'] == road
    for i, level in enumerate(FakeSource(8).all_levels(images)[:DEPTH]):
        points = level.reshape(-1, WIDTH)
        inertia = ((points[:, None] - values[i]) ** 2).sum(-1).min(1).sum()
        np.testing.assert_allclose(report['inertia'][i], inertia, rtol=1e-4)
        # The centres are a fixed point of scikit-learn's Lloyd on the unpadded tokens.
        theirs = KMeans(5, init=values[i], n_init=1, tol=0.0, algorithm='lloyd').fit(points)
        np.testing.assert_allclose(values[i], theirs.cluster_centers_, atol=1e-3)
        best = KMeans(5, n_init=10, random_state=0).fit(points).inertia_
        assert inertia < 1.15 * best
    assert all(report['converged'])


@pytest.mark.parametrize('faithful', [False, True])
@pytest.mark.parametrize('layers', spt.LAYERS)
def test_roads_agree(monkeypatch, layers, faithful):
    results = {}
    for road in ('resident', 'streamed'):
        force_road(monkeypatch, road)
        options = {'construction': 'kmeans', 'layers': layers, 'faithful': faithful}
        results[road], report = build(images_of(150), **options, budget_mb=1)
        assert report['road'] == road
        assert len(report['iterations']) == (DEPTH if layers == 'own' else 1)
    np.testing.assert_allclose(results['resident'], results['streamed'], atol=1e-4)


@pytest.mark.parametrize('road', ['resident', 'streamed'])
def test_budget_is_obeyed(monkeypatch, road):
    force_road(monkeypatch, road)
    source = FakeSource(8)
    source.watch = True
    images = images_of(150)
    gc.collect()  # what earlier tests left in circles
    before = sum(x.nbytes for x in jax.live_arrays() if x.shape[-1:] == (WIDTH,))
    _, report = build(images, source=source, construction='kmeans', budget_mb=1)
    assert report['road'] == road
    budget = walk.MB
    assert report['held_mb'] <= 1
    held = source.live - before
    assert held <= budget
    layer_tokens = 150 * (NUM_PATCHES + 1) * WIDTH * 4
    if road == 'resident':
        assert held >= layer_tokens
        # Every image passes each block once (the last block's output is not needed).
        assert source.calls.count(0) == source.calls.count(1) == 19
        assert source.calls.count(2) == 0
    else:
        assert held < layer_tokens
        assert layer_tokens > budget
        passes = (source.calls.count('embed') - 1) / 19  # one batch for its shape
        # One pass for the seeds, one an iteration, at most one for the inertia.
        assert max(report['iterations']) < passes <= max(report['iterations']) + 2


@pytest.mark.parametrize('construction', ['mean', 'kmeans'])
def test_budget_too_small_for_one_batch(monkeypatch, construction):
    monkeypatch.setattr(walk, 'MB', 1000)
    with pytest.raises(ValueError, match=r'budget_mb=1, but one batch.*lower batch_size=8'):
        build(construction=construction, budget_mb=1)


@pytest.mark.parametrize('construction', spt.CONSTRUCTIONS)
def test_fraction_limits_the_images_read(construction):
    read = {}
    for fraction in (0.1, 0.3, 1.0):
        recorder = Recorder(images_of(60))
        _, report = build(recorder, construction=construction, fraction=fraction, num_layers=1)
        read[fraction] = set(recorder.read)
        most = round(60 * fraction)
        one_batch = construction != 'kmeans' and fraction == 1.0
        expected = 8 if one_batch else most
        assert len(read[fraction]) == expected == report['num_images']
    assert read[0.1] <= read[0.3]
    # One batch of all images is drawn in the same order as a share is.
    assert read[0.3] <= read[1.0] if construction == 'kmeans' else read[1.0] <= read[0.3]


@pytest.mark.parametrize('construction', ['random', 'mean', 'max'])
@pytest.mark.parametrize('faithful', [False, True])
def test_a_share_in_batches_gives_the_prototypes_of_one_large_batch(construction, faithful):
    options = {'construction': construction, 'faithful': faithful, 'fraction': 0.5}
    want, once = build(images_of(60), batch_size=30, **options)
    got, report = build(images_of(60), batch_size=8, **options)
    assert (once['road'], report['road']) == ('batch', 'share')
    assert once['num_tokens'] == report['num_tokens'] == 30 * NUM_PATCHES
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_shallow_never_runs_a_block():
    source = FakeSource(8)
    for construction in spt.CONSTRUCTIONS:
        values, _ = build(source=source, construction=construction, num_layers=1)
        assert values.shape == (1, 5, WIDTH)
    assert set(source.calls) == {'embed', 'embedding'}


@pytest.mark.parametrize('construction', ['mean', 'kmeans'])
def test_first_and_last_repeat_one_level(construction):
    images = images_of(8)
    levels = FakeSource(8).all_levels(images)
    for layers, level in (('first', levels[0]), ('last', levels[DEPTH])):
        for num_layers in (1, DEPTH):  # shallow prompts may come from the last block, too
            values, _ = build(
                images, construction=construction, layers=layers, num_layers=num_layers
            )
            assert values.shape == (num_layers, 5, WIDTH)
            assert (values == values[:1]).all()
            # The overall mean tells the level: pooling keeps it but for the tokens left over.
            near = [np.abs(values[0].mean(0) - x.mean((0, 1))).mean() for x in levels]
            assert np.argmin(near) == (0 if layers == 'first' else DEPTH)
            if construction == 'kmeans':
                flat = level.reshape(-1, WIDTH)
                closest = np.abs(flat[:, None] - values[0]).max(-1).min(0)
                assert (closest < np.abs(flat).max()).all()


@pytest.mark.parametrize('construction', ['random', 'kmeans'])
def test_faithful_moves_layer_0_before_the_position_embedding(construction):
    plain, _ = build(construction=construction)
    faithful, _ = build(construction=construction, faithful=True)
    np.testing.assert_array_equal(plain[1:], faithful[1:])
    assert not np.allclose(plain[0], faithful[0], atol=0.1)
    source = FakeSource(8)
    source.position = jnp.zeros_like(source.position)
    moved, _ = build(construction=construction, source=source)
    np.testing.assert_allclose(faithful[0], moved[0], atol=1e-5)


def test_another_tasks_images_give_other_prompts():
    own, _ = build(construction='kmeans', num_layers=1)
    other, _ = build(images_of(seed=9), construction='kmeans', num_layers=1)
    assert not np.allclose(own, other, atol=1e-3)


@pytest.mark.parametrize('construction', spt.CONSTRUCTIONS)
def test_more_prompts_than_tokens(construction):
    with pytest.raises(ValueError, match=r'num_prompts=28 of 27 tokens \(3 images x 9 patches\)'):
        build(images_of(3), construction=construction, num_prompts=28)


def test_tokens_that_are_not_finite():
    with pytest.raises(ValueError, match='not finite; check the weights'):
        build(source=FakeSource(8, scale=np.nan))


def test_wrong_number_of_layers_or_images():
    with pytest.raises(ValueError, match='num_layers=4; allowed: 1 to the 3 blocks'):
        build(num_layers=4)
    with pytest.raises(ValueError, match='no images'):
        build(images_of(0))


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('construction', 'median'),
        ('layers', 'all'),
        ('fraction', 0.0),
        ('fraction', 1.5),
        ('fraction', float('nan')),
        ('batch_size', 0),
        ('budget_mb', 0),
        ('max_iter', 0),
        ('tol', -1.0),
    ],
)
def test_calibration_refuses(name, value):
    with pytest.raises(ValueError, match=rf'{name}(=| is ).*(allowed|at least)'):
        dataclasses.replace(Calibration(), **{name: value})
