"""Rendered scenes as TFDS builders: count, position, orientation and distance, no download.

In the spirit of VTAB's structured group (object count and distance of CLEVR, orientation of
dSprites, azimuth of small NORB): what is asked is how, where or how many, not what. A scene holds
balls before a textured background, among dots and lines. The question is about the warm ones, from
red to yellow; the cool ones, from cyan to violet, are distractors with an answer of their own,
drawn at random. The feature of a whole image mixes the answers, so who is to know has to look at
the warm balls alone. Scene i depends on its task and on i alone.

- count: how many balls of up to nine are warm, 1 to 5.
- position: on which of 6 sides of the warm ball of four the light lies, to +-10 degrees.
- orientation: which of 6 ways the stripes of the warm ball of four run, to +-6 degrees.
- distance: in which of 4 ranges the warm ball of four hangs. Its stripes shrink with it; balls
  differ in size by +-10 %.
"""

import colorsys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from jax_prompt.data.builders.parts import as_png, consecutive, describe

SIZE = 32
COUNTS = {'train': 800, 'validation': 200, 'test': 1000}
_FIRST_TEST = 100_000
_FINE = 4  # scenes are drawn this many times larger, then averaged
_SIDE = SIZE * _FINE

Colour = tuple[int, ...]
# Where, around a ball's centre, it is bright: x to the right and y down, as shares of the side.
Pattern = Callable[[np.ndarray, np.ndarray], np.ndarray]


class JaxPromptScenes(tfds.core.GeneratorBasedBuilder):
    """Scenes of 32x32 pixels; the configs are the tasks."""

    BUILDER_CONFIGS: ClassVar[list] = [
        tfds.core.BuilderConfig(name=name, version='2.0.1')
        for name in ('count', 'position', 'orientation', 'distance')
    ]
    VERSION = tfds.core.Version('2.0.1')
    RELEASE_NOTES: ClassVar[dict] = {
        '2.0.1': 'Test scenes have numbers far from the others.',
        '2.0.0': 'Easier: warm balls are asked about, cool ones distract.',
        '1.0.0': 'First.',
    }
    name = 'jax_prompt_scenes'
    url_infos: ClassVar[dict] = {}  # nothing is downloaded

    def _info(self) -> tfds.core.DatasetInfo:
        text = 'Rendered scenes that ask how many, where, which way or how far.'
        return describe(self, text, SIZE, CLASSES[self.builder_config.name])

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        numbers = consecutive(COUNTS)
        # The recipes were chosen on scenes 800 to 1,399: test begins far behind them.
        numbers['test'] = range(_FIRST_TEST, _FIRST_TEST + COUNTS['test'])
        return {name: self._generate_examples(i) for name, i in numbers.items()}

    def _generate_examples(self, index: range) -> Iterator[tuple[str, dict[str, Any]]]:
        for i in index:
            image, label = draw(self.builder_config.name, i)
            yield f'{i:05d}', {'image': as_png(image), 'label': label}


def draw(task: str, i: int) -> tuple[np.ndarray, int]:
    """Draws scene i of a task.

    Returns:
      The image, [32, 32, 3] uint8, and its label.
    """
    rng = np.random.RandomState(1_000_000 * (1 + list(CLASSES).index(task)) + i)
    label = i % len(CLASSES[task])
    scene = _Scene(rng)
    _RENDER[task](scene, rng, label)
    return scene.finish(), label


class _Scene:
    """A canvas with a textured background; lengths and places are shares of the side."""

    def __init__(self, rng: np.random.RandomState):
        from PIL import Image, ImageDraw

        self.rng = rng
        back = rng.uniform(60, 190) + rng.uniform(-25, 25, 3)
        grid = rng.normal(0, 1, (6, 6, 3)) * rng.uniform(5, 22)
        coarse = np.clip(back + grid, 0, 255).astype(np.uint8)
        image = Image.fromarray(coarse).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(image)
        for _ in range(rng.randint(0, 4)):
            x, y, radius = rng.uniform((0, 0, 0.01), (1, 1, 0.03)) * _SIDE
            box = [x - radius, y - radius, x + radius, y + radius]
            pen.ellipse(box, fill=self.colour(warm=False))
        for _ in range(rng.randint(0, 2)):
            ends = rng.uniform(0, _SIDE, 4).tolist()
            pen.line(ends, fill=self.colour(warm=False), width=_FINE // 2)
        self.canvas = np.array(image)  # [128, 128, 3] uint8

    def colour(self, warm: bool) -> Colour:
        """Returns a colour from red to yellow, or one from cyan to violet."""
        hue = self.rng.uniform(*((-15, 50) if warm else (170, 285))) / 360 % 1
        colour = colorsys.hsv_to_rgb(hue, *self.rng.uniform(0.75, 1.0, 2))
        return tuple(int(255 * channel) for channel in colour)

    def ball(
        self, place: np.ndarray, radius: float, warm: bool, pattern: Pattern, dark: float = 0.25
    ) -> None:
        """Paints a disc, `dark` times as bright where its pattern is off."""
        first = np.maximum(np.floor((place - radius) * _SIDE).astype(int), 0)
        last = np.ceil((place + radius) * _SIDE).astype(int) + 1
        part = self.canvas[first[1] : last[1], first[0] : last[0]]
        dx = (np.arange(part.shape[1]) + first[0]) / _SIDE - place[0]
        dy = (np.arange(part.shape[0])[:, None] + first[1]) / _SIDE - place[1]
        bright = np.array(self.colour(warm))
        inside = dx**2 + dy**2 <= radius**2
        part[inside] = (dark * bright).astype(np.uint8)
        part[inside & pattern(dx, dy)] = bright

    def finish(self) -> np.ndarray:
        """Returns the scene with noise, [32, 32, 3] uint8."""
        fine = self.canvas.reshape(SIZE, _FINE, SIZE, _FINE, 3)
        rows = fine.sum(1, dtype=np.uint16)  # [32, 32, 4, 3]
        small = rows.sum(2, dtype=np.uint16) / _FINE**2  # [32, 32, 3]
        noise = self.rng.normal(0, self.rng.uniform(1, 8), small.shape)
        return np.clip(np.rint(small + noise), 0, 255).astype(np.uint8)


def _stripes(rng: np.random.RandomState, angle: float, period: float) -> Pattern:
    """Stripes that run at an angle in radians, anticlockwise from the right."""
    start = rng.uniform(0, 1)
    return lambda dx, dy: ((dx * np.sin(angle) + dy * np.cos(angle)) / period + start) % 1 < 0.5


def _lit(angle: float) -> Pattern:
    """Light on the half that looks towards an angle in radians, anticlockwise from the right."""
    return lambda dx, dy: dx * np.cos(angle) - dy * np.sin(angle) > 0


def _grid(rng: np.random.RandomState, side: int, step: float, shake: float) -> np.ndarray:
    """Returns the places [side^2, 2] of a grid around the middle, shaken, in random order."""
    row = 0.5 + step * (np.arange(side) - (side - 1) / 2)
    places = np.stack(np.meshgrid(row, row), axis=-1).reshape(-1, 2)
    return rng.permutation(places) + rng.uniform(-shake, shake, places.shape)


def _four(rng: np.random.RandomState, label: int, num_classes: int) -> Iterator[tuple]:
    """Yields place, class and whether it is warm of four balls, of which the first one is asked."""
    for j, place in enumerate(_grid(rng, 2, 0.48, 0.04)):
        yield place, label if j == 0 else rng.randint(num_classes), j == 0


def _radius(rng: np.random.RandomState, warm: bool) -> float:
    """Returns a radius: what distracts is larger than what is asked about."""
    return rng.uniform(0.15, 0.18) if warm else rng.uniform(0.2, 0.24)


def _count(scene: _Scene, rng: np.random.RandomState, label: int) -> None:
    places = _grid(rng, 3, 0.3, 0.03)
    cool = rng.randint(1, len(places) - label)
    for j in range(label + 1 + cool):
        pattern = _stripes(rng, rng.uniform(0, np.pi), 0.13)
        scene.ball(places[j], rng.uniform(0.1, 0.14), j <= label, pattern, dark=0.6)


def _position(scene: _Scene, rng: np.random.RandomState, label: int) -> None:
    for place, side, warm in _four(rng, label, len(CLASSES['position'])):
        angle = np.deg2rad(60 * side + rng.uniform(-10, 10))
        scene.ball(place, _radius(rng, warm), warm, _lit(angle))


def _orientation(scene: _Scene, rng: np.random.RandomState, label: int) -> None:
    for place, way, warm in _four(rng, label, len(CLASSES['orientation'])):
        angle = np.deg2rad(30 * way + rng.uniform(-6, 6))
        scene.ball(place, _radius(rng, warm), warm, _stripes(rng, angle, 0.13))


def _distance(scene: _Scene, rng: np.random.RandomState, label: int) -> None:
    for place, steps, warm in _four(rng, label, len(CLASSES['distance'])):
        far = 1.3 ** (steps + rng.uniform(0.15, 0.85))
        radius = 0.22 * rng.uniform(0.9, 1.1) / far
        scene.ball(place, radius, warm, _stripes(rng, rng.uniform(0, np.pi), 0.2 / far))


CLASSES = {
    'count': tuple(str(n) for n in range(1, 6)),
    'position': tuple(f'{60 * n}_degrees' for n in range(6)),
    'orientation': tuple(f'{30 * n}_degrees' for n in range(6)),
    'distance': tuple(f'range_{n}' for n in range(4)),
}
_RENDER: dict[str, Callable[[_Scene, np.random.RandomState, int], None]] = {
    'count': _count,
    'position': _position,
    'orientation': _orientation,
    'distance': _distance,
}
