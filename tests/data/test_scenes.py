"""The rendered scenes: deterministic, balanced, and what their labels say."""

import numpy as np
import pytest

from jax_prompt.data.open import check, open_source
from jax_prompt.data.tasks import TASKS

scenes = pytest.importorskip('jax_prompt.data.builders.scenes')
TASK_NAMES = list(scenes.CLASSES)


@pytest.mark.parametrize('task', TASK_NAMES)
def test_a_scene_depends_on_its_number_alone(task):
    first, label = scenes.draw(task, 5)
    scenes.draw(task, 6)
    again, same = scenes.draw(task, 5)
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert label == same == 5 % len(scenes.CLASSES[task])
    assert (scenes.draw(task, 5 + 16)[0] != first).any()


@pytest.mark.parametrize('task', TASK_NAMES)
def test_mean_colour_and_contrast_tell_little(task):
    drawn = [scenes.draw(task, i) for i in range(400)]
    images = np.stack([image for image, _ in drawn]).astype(np.float64)
    labels = np.array([label for _, label in drawn])
    # More warm balls, more red; nearer balls, more contrast: those two can't but tell something.
    most = 0.15 if task in ('position', 'orientation') else 0.4
    for statistic in (images.mean((1, 2)), images.std((1, 2))):
        between = np.stack([statistic[labels == k].mean(0) for k in np.unique(labels)]).var(0)
        assert (between < most * statistic.var(0)).all()


def _drawn(monkeypatch, task, i):
    """Draws a scene; returns its balls as (place, radius, warm, pattern), and its label."""
    seen, ball = [], scenes._Scene.ball

    def watch(self, place, radius, warm, pattern, dark=0.25):
        seen.append((place, radius, warm, pattern))
        ball(self, place, radius, warm, pattern, dark)

    monkeypatch.setattr(scenes._Scene, 'ball', watch)
    _, label = scenes.draw(task, i)
    monkeypatch.undo()
    return seen, label


def _unit(degrees):
    """A step at an angle, anticlockwise from the right, where y goes down: [2]."""
    return np.array([np.cos(np.deg2rad(degrees)), -np.sin(np.deg2rad(degrees))])


def _along(pattern, degrees):
    """A pattern's values on a long line through the centre."""
    return pattern(*(np.linspace(-2, 2, 4001)[:, None] * _unit(degrees)).T)


def _wave(pattern):
    """The way in degrees and the period that a plain search finds for stripes."""
    ways = np.arange(0, 180, 0.5)
    changes = np.array([np.abs(np.diff(_along(pattern, way).astype(int))).sum() for way in ways])
    way = ways[changes.argmin()]
    across = np.abs(np.diff(_along(pattern, way + 90).astype(int))).sum()
    return way, 8 / across  # two changes a period, on a line of length 4


@pytest.mark.parametrize('i', range(12))
def test_labels_say_what_is_in_the_scene(monkeypatch, i):
    balls, label = _drawn(monkeypatch, 'count', i)
    assert sum(warm for _, _, warm, _ in balls) == label + 1 == int(scenes.CLASSES['count'][label])
    assert any(not warm for _, _, warm, _ in balls)

    balls, label = _drawn(monkeypatch, 'position', i)
    ((_, _, _, lit),) = [ball for ball in balls if ball[2]]
    bright = [degrees for degrees in range(360) if lit(*(0.1 * _unit(degrees)))]
    angle = np.rad2deg(np.angle(np.exp(1j * np.deg2rad(bright)).sum()))
    assert len(bright) in (179, 180, 181)
    assert abs((angle - 60 * label + 180) % 360 - 180) <= 11

    balls, label = _drawn(monkeypatch, 'orientation', i)
    ((_, _, _, stripes),) = [ball for ball in balls if ball[2]]
    way, period = _wave(stripes)
    assert abs((way - 30 * label + 90) % 180 - 90) <= 7
    assert period == pytest.approx(0.13, rel=0.05)

    balls, label = _drawn(monkeypatch, 'distance', i)
    ((_, radius, _, stripes),) = [ball for ball in balls if ball[2]]
    far = 0.2 / _wave(stripes)[1]
    assert int(np.log(far) / np.log(1.3)) == label
    assert 0.89 < radius * far / 0.22 < 1.11


@pytest.mark.parametrize('task', TASK_NAMES)
def test_balls_lie_apart_and_their_colours_differ(monkeypatch, task):
    rng = np.random.RandomState(0)
    scene = scenes._Scene(rng)
    warm = np.array([scene.colour(warm=True) for _ in range(200)])
    cool = np.array([scene.colour(warm=False) for _ in range(200)])
    assert (warm[:, 0] > warm[:, 2]).all()
    assert (cool[:, 0] < cool[:, 2]).all()
    for i in range(20):
        balls, _ = _drawn(monkeypatch, task, i)
        for a in balls:
            assert (np.abs(a[0] - 0.5) + a[1] < 0.53).all()  # inside, to a pixel
            gaps = [np.hypot(*(a[0] - b[0])) - a[1] - b[1] for b in balls if b is not a]
            assert min(gaps) > -0.09  # they touch, hardly more


@pytest.mark.parametrize('task', ['count', 'distance'])
def test_a_scene_task_is_a_tfds_source(task, tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, 'COUNTS', {'train': 24, 'validation': 12, 'test': 12})
    source = open_source(f'scenes/{task}', data_dir=str(tmp_path))
    assert list(source.classes) == list(scenes.CLASSES[task])
    assert {name: len(part) for name, part in source.splits.items()} == {
        'train': 24,
        'val': 12,
        'test': 12,
    }
    train = source.splits['train']
    check(train, workers=1)
    drawn = {scenes.draw(task, i)[0].tobytes(): scenes.draw(task, i)[1] for i in range(24)}
    read = {train.read(j).tobytes(): int(train.labels[j]) for j in range(24)}
    assert read == drawn
    test = source.splits['test']  # numbers of its own
    drawn = {scenes.draw(task, 100_000 + i)[0].tobytes() for i in range(12)}
    assert {test.read(j).tobytes() for j in range(12)} == drawn


def test_tasks_name_what_the_builders_make():
    rows = {task.data: task for task in TASKS}
    for name, classes in scenes.CLASSES.items():
        row = rows[f'scenes/{name}']
        assert (row.name, row.num_classes) == (name, len(classes))
        assert row.sizes == tuple(scenes.COUNTS.values())
    with pytest.raises(ValueError, match='scenes/'):
        open_source('scenes/colour')
